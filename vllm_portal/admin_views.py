"""Pages of the admin site that belong to no table."""

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_POST, require_safe

from inference import auditing
from vllm_portal.settings_in_force import settings_in_force


@require_safe
def settings_page(request: HttpRequest) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": "Settings in force", "settings": settings_in_force()}
    return render(request, "admin/settings.html", context)


@require_POST
def audit_now(request: HttpRequest) -> HttpResponse:
    if not request.user.is_admin:
        raise PermissionDenied
    if auditing.ask():
        messages.success(request, "The ledger is being audited; the result is on this page in a moment.")
    else:
        messages.error(request, "The worker cannot be asked now: Redis is away.")
    return redirect("admin:index")


urls = [
    path("settings/", admin.site.admin_view(settings_page), name="settings"),
    path("audit/", admin.site.admin_view(audit_now), name="audit_now"),
]
