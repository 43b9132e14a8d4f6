"""Style sheets and scripts of the portal and of the packages it uses, as they lie on the disk: no step before the
start copies them anywhere, and no other server is needed for them."""

import mimetypes
from functools import lru_cache
from pathlib import Path

from django.contrib.staticfiles import finders
from django.core.exceptions import SuspiciousFileOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified
from django.utils.http import http_date
from django.views.decorators.http import require_safe
from django.views.static import was_modified_since

FRESH_S = 3600
"""How long a browser need not ask again."""


@require_safe
def static_file(request: HttpRequest, path: str) -> HttpResponse:
    """404 for what is no static file of an installed app."""
    found = _find(path)
    if found is None:
        raise Http404("no such file")
    changed_at = found.stat().st_mtime
    if not was_modified_since(request.headers.get("if-modified-since"), changed_at):
        return HttpResponseNotModified(headers={"Cache-Control": f"max-age={FRESH_S}, public"})
    kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
    charset = "; charset=utf-8" if kind.startswith("text/") or kind == "application/javascript" else ""
    response = HttpResponse(found.read_bytes(), content_type=kind + charset)
    response["Last-Modified"] = http_date(changed_at)
    response["Cache-Control"] = f"max-age={FRESH_S}, public"
    return response


@lru_cache(maxsize=1000)
def _find(path: str) -> Path | None:
    try:
        found = finders.find(path)
    except SuspiciousFileOperation:  # a path that leads out of the apps' folders
        return None
    return Path(found) if found and Path(found).is_file() else None
