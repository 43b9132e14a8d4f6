"""Tables in the admin pages. What one page of them costs does not grow with the table."""

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property
from unfold.admin import ModelAdmin


class Table(ModelAdmin):
    """Few rows a page: unfold draws each cell by templates, a row in more than a millisecond."""

    list_per_page = 15
    found_by_search = True
    """Its rows are among what the search over everything finds."""


class FirstPages(Paginator):
    """Of a long list the beginning: to count a million rows, or skip them, is to read them."""

    most = 2_000

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[: self.most].count()


class LongTable(Table):
    """One that may have a million rows, in the order of an index."""

    paginator = FirstPages
    show_full_result_count = False


class ReadOnly:
    """Rows that only the portal itself writes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
