"""What the admin pages do to people and concerns their engines; `accounts` knows of none."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.admin import PeopleAdmin
from accounts.models import User
from accounts.tables import counted
from engines import terminating
from engines.models import Engine


@admin.action(description="Cut off: disable, and stop their engines", permissions=["change"])
def cut_off(page: PeopleAdmin, request: HttpRequest, queryset: QuerySet[User]) -> None:
    """Disabled first: who cannot log in starts no other."""
    page.disable(request, queryset)
    engines = list(Engine.objects.active().filter(owner__in=queryset.values("pk"), owner__is_active=False))
    for engine in engines:
        terminating.request_terminate(engine, request.user)
        page.log_change(request, engine, "stopped, as its owner was cut off")
    page.message_user(request, f"Asked {counted(len(engines), 'engine')} to stop.")
