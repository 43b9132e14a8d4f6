"""The search over everything in the admin pages. Unfold's own reads every row that matches."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.text import capfirst
from unfold.dataclasses import SearchResult

from accounts.tables import LongTable

MOST = 8
"""Of each table; its own page lists the others."""


def found(request: HttpRequest, term: str) -> list[SearchResult]:
    """Unfold's callback."""
    return [
        result
        for page in admin.site._registry.values()
        if page.get_search_fields(request) and page.has_view_permission(request)
        if getattr(page, "found_by_search", True)
        for result in _of_table(page, request, term)
    ]


def _of_table(page: Any, request: HttpRequest, term: str) -> list[SearchResult]:
    about, base = page.opts, f"admin:{page.opts.app_label}_{page.opts.model_name}_"
    rows, _ = page.get_search_results(request, page.get_queryset(request), term)
    if not isinstance(page, LongTable):  # whose own order is that of an index
        rows = rows.order_by("-pk")  # the newest, without sorting all that match
    seen = list(rows[: MOST + 1])
    kind = capfirst(str(about.verbose_name))
    results = [
        SearchResult(str(row), kind, reverse(f"{base}change", args=(row.pk,)), "data_object") for row in seen[:MOST]
    ]
    if len(seen) > MOST:
        every = f"{reverse(f'{base}changelist')}?{urlencode({'q': term})}"
        results.append(SearchResult(f"More {about.verbose_name_plural}", f"All with {term}", every, "list"))
    return results
