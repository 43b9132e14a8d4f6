"""What a browser may load and run on the portal's pages: a Content-Security-Policy with each page.

No page runs inline code. Two kinds of pages come from packages, which write styles into them: these are named one by
one, by the hash of their text, so that nothing else that gets into a page is a style or a script. Browser tests fail
where a new version of a package writes another one; the browser's console then says its hash.
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
# django-unfold: its colours as variables, and htmx's style for what is loading. Its script Alpine evaluates attributes.
_ADMIN = {
    **_COMMON,
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'sha256-zC79T7YS3bxGLpqsQ1bmO3Ydz2Ls63oRFDZ7ETbIJEU=' "
    "'sha256-bsV5JivYxvGywDAZ22EZJKBFip65Ng9xoJVLbBg7bdo='",
}
# REST framework: the style attributes of its buttons, of a mark and of a field.
_API = {
    **_COMMON,
    "style-src": "'self' 'unsafe-hashes' 'sha256-OfgyIBrd+/vP79JdFMYP+re4T+fIenvkrHPD2HZ8/cs=' "
    "'sha256-WZ567ntT3BKIFaeoTtOOEdkkOJR5UidQJ809ufOE0zk=' 'sha256-0V5/fLoTH6AIz3LwPzc/fJk6f/SSrUGN1hZNQXZRs2Y='",
}


def _written(rules: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in rules.items())


STRICT, ADMIN, API = _written(_COMMON), _written(_ADMIN), _written(_API)


class ContentSecurityPolicyMiddleware:
    """A view's own header stays."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        browsable = getattr(getattr(response, "accepted_renderer", None), "format", "") == "api"
        policy = ADMIN if request.path.startswith("/admin/") else API if browsable else STRICT
        response.headers.setdefault("Content-Security-Policy", policy)
        return response
