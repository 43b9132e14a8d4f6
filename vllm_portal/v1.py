"""What the endpoints under `/api/v1/` share. Each app registers its viewsets with a `Router` of its own in `urls.py`.

Conventions: plural nouns; ids as strings in paths; lists are `{"next", "previous", "results"}`, paged by cursor
(`?limit=` to 500), filtered by query parameters named like fields, ordered by `?ordering=field,-field`; what belongs to
another user is 404; times are ISO 8601 in UTC.
"""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.filters import OrderingFilter
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.routers import SimpleRouter

PREFIX = "api/v1/"


class Page(CursorPagination):
    """A view names its `ordering`; the last field of it must be unique, or rows on a page's edge are lost."""

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 500

    def paginate_queryset(self, queryset: QuerySet, request: Request, view: Any = None) -> list[Any] | None:
        """A cursor is what the client makes of it: one whose place is no value of the ordering field is 404."""
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, OverflowError, ValidationError, DataError):
            raise NotFound(self.invalid_cursor_message) from None


class Ordering(OrderingFilter):
    """What the client asks for, and then the view's own last field: paging needs an order without ties."""

    def get_ordering(self, request: Request, queryset: QuerySet, view: Any) -> list[str]:
        ordering = list(super().get_ordering(request, queryset, view) or ())
        last = view.ordering[-1]
        return ordering if last.lstrip("-") in {name.lstrip("-") for name in ordering} else [*ordering, last]


class Router(SimpleRouter):
    """Routes that answer with and without their trailing slash."""

    def __init__(self) -> None:
        super().__init__()
        self.trailing_slash = "/?"  # the argument would only be taken as a yes
