"""REST framework's pages of the API, as this portal's pages must be."""

from collections.abc import Mapping
from typing import Any

from rest_framework.renderers import BrowsableAPIRenderer


class BrowsableAPI(BrowsableAPIRenderer):
    """Says which language it is in, and the theme that was chosen. The rest is in `rest_framework/api.html`."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> str:
        page = super().render(data, accepted_media_type, renderer_context)
        chosen = (renderer_context or {})["request"].COOKIES.get("theme")
        theme = f' data-theme="{chosen}"' if chosen in ("dark", "light") else ""
        return page.replace("<html>", f'<html lang="en"{theme}>', 1)
