"""Groups in the admin pages: whom an engine can be shared with at once. Who is in one is on each user's page."""

from functools import partial
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from unfold.admin import StackedInline

from accounts.models import GroupPriority
from accounts.tables import Table
from vllm_portal.changes import announce

admin.site.unregister(Group)


def tell() -> None:
    """The data plane, after the commit: who may use which engine may have changed."""
    transaction.on_commit(partial(announce, "engines"))


class PriorityInline(StackedInline):
    model = GroupPriority
    fields = ("value",)
    verbose_name_plural = "priority where engines wait for GPUs"
    can_delete = False


@admin.register(Group)
class GroupAdmin(Table):
    """Without Django's permissions: what one may do is the role's to say."""

    fields = ("name", "members")
    readonly_fields = ("members",)
    list_display = ("name", "size")
    search_fields = ("name",)
    inlines = (PriorityInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        return super().get_queryset(request).annotate(size=Count("user"))

    @admin.display(description="members", ordering="size")
    def size(self, group: Group) -> int:
        return group.size

    @admin.display(description="members")
    def members(self, group: Group) -> str:
        """The first hundred."""
        names = list(group.user_set.order_by("username").values_list("username", flat=True)[:101]) if group.pk else []
        return ", ".join(names[:100]) + (", …" if len(names) > 100 else "") or "Nobody yet: see the users' pages."

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list, dict, set, list]:
        """Without each membership, of which there may be thousands: the users stay."""
        groups = list(objs)
        return [str(group) for group in groups], {"groups": len(groups)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Group) -> None:
        super().delete_model(request, obj)
        tell()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        super().delete_queryset(request, queryset)
        tell()
