"""Who changed what in the admin pages: to look at."""

from django.contrib import admin
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry

from accounts.tables import LongTable, ReadOnly

DID = {ADDITION: "added", CHANGE: "changed", DELETION: "removed"}


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnly, LongTable):
    list_display = ("action_time", "user", "did", "kind", "about", "change")
    list_display_links = None
    list_filter = ("action_flag", "content_type", "action_time")
    list_select_related = ("user", "content_type")
    search_fields = ("object_repr",)
    person = "user"
    ordering = ("-pk",)  # which is that of time, and has an index
    actions = None

    @admin.display(description="did", ordering="action_flag")
    def did(self, entry: LogEntry) -> str:
        return DID.get(entry.action_flag, "")

    @admin.display(description="of")
    def kind(self, entry: LogEntry) -> str:
        """A table that is gone has no name."""
        model = entry.content_type and entry.content_type.model_class()
        return str(model._meta.verbose_name) if model else ""

    @admin.display(description="which")
    def about(self, entry: LogEntry) -> str:
        return entry.object_repr

    @admin.display(description="what")
    def change(self, entry: LogEntry) -> str:
        return entry.get_change_message()
