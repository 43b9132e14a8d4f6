"""Who changed what in the admin pages: to look at."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry

from accounts.tables import LongTable, ReadOnly


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnly, LongTable):
    list_display = ("action_time", "user", "action_flag", "content_type", "object_repr", "change")
    list_display_links = None
    list_filter = ("action_flag", "content_type", "action_time")
    list_select_related = ("user", "content_type")
    search_fields = ("object_repr",)
    person = "user"
    ordering = ("-pk",)  # which is that of time, and has an index
    actions = None

    @admin.display(description="what")
    def change(self, entry: LogEntry) -> str:
        return entry.get_change_message()
