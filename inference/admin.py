"""Conversations without what was said in them, and what requests cost. To look at: nothing here can be changed."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from inference.models import Conversation, UsageRecord


class ReadOnlyAdmin(admin.ModelAdmin):
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


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = (
        "started_at", "user", "model", "path", "streamed", "prompt_tokens", "generated_tokens", "exact", "outcome",
        "first_token_ms", "duration_ms",
    )  # fmt: skip
    list_select_related = ("user",)
    list_filter = ("outcome", "exact", "streamed", "started_at")
    search_fields = ("user__username", "model", "request_id")
    search_help_text = "User, model or request id"
    show_full_result_count = False
