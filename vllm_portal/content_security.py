"""What a browser may load and run on the portal's pages: a Content-Security-Policy with each page.

Our own pages hold no inline code. Three kinds of pages come from packages and do: they get a policy that allows it, and
still nothing from another host.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

_COMMON = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
_PACKAGES = {
    **_COMMON,
    # django-unfold's scripts (Alpine) evaluate attributes; Swagger UI and the browsable API have inline code.
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
}
PACKAGES_PATHS = ("/admin/", "/api/docs")


def _written(rules: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in rules.items())


STRICT, LENIENT = _written(_COMMON), _written(_PACKAGES)


class ContentSecurityPolicyMiddleware:
    """Strict, but for paths of packages and for REST framework's browsable API. A view's own header stays."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        browsable = getattr(getattr(response, "accepted_renderer", None), "format", "") == "api"
        lenient = browsable or request.path.startswith(PACKAGES_PATHS)
        response.headers.setdefault("Content-Security-Policy", LENIENT if lenient else STRICT)
        return response
