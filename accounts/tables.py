"""Tables in the admin pages. What one page of them costs does not grow with the table."""

from typing import Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.paginator import Paginator
from django.db.models import Count, Exists, Model, OuterRef, Q, QuerySet, Window
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import smart_split, unescape_string_literal
from unfold.admin import ModelAdmin, checkbox
from unfold.views import ChangeList

from accounts.models import User

FEW = 300


def of_people(request: HttpRequest, words: str, field: str) -> Q:
    """Rows whose `field`, a user, has `words` in the name; "pk" where the rows are the users. Few users are looked for
    once in a request, and their rows found by an index; those of many come soon, in the order of the list. For their
    own table alone it would be one look more."""
    named = User.objects.filter(username__icontains=words).order_by()
    known = request.__dict__.setdefault("_people_named", {})
    if words not in known and field != "pk":
        known[words] = list(named.values_list("pk", flat=True)[: FEW + 1])
    few = known.get(words)
    if few is not None and len(few) <= FEW:
        return Q(**{f"{field}__in": few})
    return Q(username__icontains=words) if field == "pk" else Q(Exists(named.filter(pk=OuterRef(field))))


class Found(ChangeList):
    """What matches a search is looked for once: how many rows there are comes with the keys of those on the page."""

    def get_results(self, request: HttpRequest) -> None:
        keys: list[Any] | None = None
        if columns := self.model_admin.columns:
            self.queryset = self.queryset.only(*columns)
        if self.query and not self.show_all:
            first = max(self.page_num - 1, 0) * self.list_per_page
            keys, self.queryset.known_count = self.model_admin.matching(self.queryset, first, self.list_per_page)
        super().get_results(request)
        if keys is not None:
            rows = self.apply_select_related(self.root_queryset.filter(pk__in=keys))
            rows = rows.order_by(*self.get_ordering(request, rows))
            self.result_list = rows.only(*columns) if columns else rows


class Table(ModelAdmin):
    """Few rows a page: unfold draws each cell by templates, a row in more than a millisecond."""

    list_per_page = 15
    found_by_search = True
    """Its rows are among what the search over everything finds."""
    person = ""
    """A user, whose name is searched besides `search_fields`."""

    columns: tuple[str, ...] = ()
    """That a list reads; (): all. Actions have whole rows."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Found

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Model], *args: Any, **kwargs: Any) -> Paginator:
        paginator = super().get_paginator(request, queryset, *args, **kwargs)
        if (known := getattr(queryset, "known_count", None)) is not None:
            paginator.count = known
        return paginator

    def matching(self, queryset: QuerySet[Model], first: int, most: int) -> tuple[list[Any] | None, int]:
        """The keys of so many rows from the `first` on (None: the list looks itself), and how many rows there are."""
        counted = queryset.annotate(matching=Window(Count("pk"))).values_list("pk", "matching")
        found = list(counted[first : first + most])
        if not found and first:  # beyond the last page
            return None, queryset.count()
        return [key for key, _ in found], found[0][1] if found else 0

    def action_checkbox(self, row: Model) -> SafeString:
        """A widget is two templates: of each row only its key differs."""
        return format_html(self._checkbox, row.pk)

    action_checkbox.short_description = ModelAdmin.action_checkbox.short_description

    @cached_property
    def _checkbox(self) -> str:
        return checkbox.render(ACTION_CHECKBOX_NAME, "{}")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Model], search_term: str
    ) -> tuple[QuerySet[Model], bool]:
        """As Django's: each word is in one of the fields, or in the person's name."""
        if not self.person:
            return super().get_search_results(request, queryset, search_term)
        for word in _words(search_term):
            fields = (Q(**{f"{field}__icontains": word}) for field in self.search_fields)
            queryset = queryset.filter(Q(*fields, of_people(request, word, self.person), _connector=Q.OR))
        return queryset, False


def _words(term: str) -> list[str]:
    """Words in quotes are one."""
    quoted = [(word, word[0] in "\"'" and len(word) > 1 and word[0] == word[-1]) for word in smart_split(term)]
    return [unescape_string_literal(word) if whole else word for word, whole in quoted]


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

    def matching(self, queryset: QuerySet[Model], first: int, most: int) -> tuple[list[Any] | None, int]:
        """Many rows are in the order of an index, and the list finds those of a page itself."""
        keys = list(queryset.order_by().values_list("pk", flat=True)[: FirstPages.most])
        if len(keys) > FEW:
            return None, len(keys)
        ordered = queryset.model._default_manager.filter(pk__in=keys).order_by(*queryset.query.order_by)
        return list(ordered.values_list("pk", flat=True)[first : first + most]), len(keys)


class ReadOnly:
    """Rows that only the portal itself writes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def counted(number: int, noun: str) -> str:
    """ "1 engine", "2 engines", "no engines"."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
