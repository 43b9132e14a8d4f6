"""Conversations without what was said in them, and what requests cost. To look at: nothing here can be changed."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest

from accounts.tables import FirstPages, Found, LongTable, ReadOnly, Table, of_people
from engines.models import Engine
from inference.aliases_admin import AliasAdmin
from inference.models import AuditRun, Conversation, Message, ModelAlias, UsageRecord

admin.site.register(ModelAlias, AliasAdmin)


class Listed(ReadOnly, LongTable):
    actions = None


class WithMessageCounts(Found):
    """Counts the messages of those conversations alone that are shown."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        messages = Message.objects.filter(conversation__in=self.result_list).order_by()
        counts = dict(messages.values_list("conversation").annotate(Count("pk")))
        for conversation in self.result_list:
            conversation.counted = counts.get(conversation.pk, 0)


@admin.register(Conversation)
class ConversationAdmin(Listed):
    list_display = fields = ("user", "number", "name", "message_count", "created_at", "updated_at")
    list_display_links = ("number",)
    list_select_related = ("user",)
    ordering = ("-updated_at",)
    search_fields = ("name",)  # and what get_search_results says
    search_help_text = "User or name of the conversation; what was said in it is not shown, not searched"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[WithMessageCounts]:
        return WithMessageCounts

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Conversation], search_term: str
    ) -> tuple[QuerySet[Conversation], bool]:
        """First what matches, then its order: a list that is read in order, to be searched, is read row by row. Most
        conversations have no name, and to see that is less than to search it."""
        if not (term := search_term.strip()):
            return queryset, False
        found = queryset.order_by().filter(of_people(request, term, "user") | Q(name__gt="", name__icontains=term))
        return queryset.filter(pk__in=found.values("pk")[: FirstPages.most]), False

    def matching(self, queryset: QuerySet[Conversation], first: int, most: int) -> tuple[list[Any] | None, int]:
        """What matches is no more than that."""
        return Table.matching(self, queryset, first, most)

    @admin.display(description="messages")
    def message_count(self, conversation: Conversation) -> int:
        counted = getattr(conversation, "counted", None)
        return conversation.messages.count() if counted is None else counted


@admin.register(UsageRecord)
class UsageRecordAdmin(Listed):
    """For millions of records: in the order of an index."""

    list_display = (
        "started_at", "user", "model", "path", "streamed", "prompt_tokens", "generated_tokens", "exact", "outcome",
        "first_token_ms", "duration_ms",
    )  # fmt: skip
    list_select_related = ("user",)
    list_filter = ("outcome", "exact", "streamed", "started_at")
    sortable_by = ("started_at",)
    search_fields = ("request_id",)  # and what get_search_results says
    search_help_text = f"Part of a user's or model's name, or a request id; the first {FirstPages.most:,} are listed"
    show_facets = admin.ShowFacets.NEVER

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageRecord], search_term: str
    ) -> tuple[QuerySet[UsageRecord], bool]:
        """Names are searched where there are few of them: text within a million rows has no index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        models = {term} | set(Engine.objects.filter(model__icontains=term).values_list("model", flat=True))
        return queryset.filter(Q(request_id=term) | of_people(request, term, "user") | Q(model__in=models)), False


@admin.register(AuditRun)
class AuditRunAdmin(Listed):
    list_display = ("at", "__str__")
    fields = ("at", "broken", "found")

    @admin.display(description="what is broken")
    def found(self, run: AuditRun) -> str:
        lines = [f"{finding['rule']}: {finding['about']}: {finding['text']}" for finding in run.findings]
        if run.broken > len(lines):
            lines.append(f"and {run.broken - len(lines)} more; `manage.py audit` names them all")
        return "\n".join(lines) or "nothing"
