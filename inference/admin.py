"""Conversations without what was said in them, and what requests cost. To look at: nothing here can be changed."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from unfold.admin import ModelAdmin

from accounts.models import User
from engines.models import Engine
from inference.aliases_admin import AliasAdmin
from inference.models import AuditRun, Conversation, ModelAlias, UsageRecord

admin.site.register(ModelAlias, AliasAdmin)


class ReadOnlyAdmin(ModelAdmin):
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin):
    list_display = fields = ("user", "number", "name", "message_count", "created_at", "updated_at")
    list_display_links = ("number",)
    list_select_related = ("user",)
    search_fields = ("user__username", "name")
    search_help_text = "User or name of the conversation; what was said in it is not shown, not searched"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        return super().get_queryset(request).annotate(message_count=Count("messages"))

    @admin.display(description="messages", ordering="message_count")
    def message_count(self, conversation: Conversation) -> int:
        return conversation.message_count


class FirstPages(Paginator):
    """Of a long list the beginning: to count a million rows, or skip them, is to read them."""

    most = 10_000

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[: self.most].count()


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """For millions of records: in the order of an index."""

    list_display = (
        "started_at", "user", "model", "path", "streamed", "prompt_tokens", "generated_tokens", "exact", "outcome",
        "first_token_ms", "duration_ms",
    )  # fmt: skip
    list_select_related = ("user",)
    list_filter = ("outcome", "exact", "streamed", "started_at")
    sortable_by = ("started_at",)
    paginator = FirstPages
    search_fields = ("request_id",)  # and what get_search_results says
    search_help_text = f"Part of a user's or model's name, or a request id; the first {FirstPages.most:,} are listed"
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageRecord], search_term: str
    ) -> tuple[QuerySet[UsageRecord], bool]:
        """Names are searched where there are few of them: text within a million rows has no index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if queryset.filter(request_id=term).exists():
            return queryset.filter(request_id=term), False
        users = list(User.objects.filter(username__icontains=term).values_list("pk", flat=True))
        models = {term} | set(Engine.objects.filter(model__icontains=term).values_list("model", flat=True))
        return queryset.filter(Q(user__in=users) | Q(model__in=models)), False


@admin.register(AuditRun)
class AuditRunAdmin(ReadOnlyAdmin):
    list_display = ("at", "__str__")
    fields = ("at", "broken", "found")

    @admin.display(description="what is broken")
    def found(self, run: AuditRun) -> str:
        lines = [f"{finding['rule']}: {finding['about']}: {finding['text']}" for finding in run.findings]
        if run.broken > len(lines):
            lines.append(f"and {run.broken - len(lines)} more; `manage.py audit` names them all")
        return "\n".join(lines) or "nothing"
