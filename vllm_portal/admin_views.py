"""Pages of the admin site that belong to no table."""

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.change_log import note
from engines import model_cache
from inference import auditing
from vllm_portal.errors import CallerError, Conflict
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


@require_safe
def cached_models(request: HttpRequest) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": "Cached models"}
    try:
        context |= {"models": model_cache.listed(), "disk": model_cache.disk()}
    except Conflict as error:
        context["problem"] = str(error)
    return render(request, "admin/cached_models.html", context)


@require_POST
def remove_cached_model(request: HttpRequest) -> HttpResponse:
    if not request.user.is_admin:
        raise PermissionDenied
    try:
        removed = model_cache.remove(request.POST.get("id", ""), timezone.now())
    except CallerError as error:
        messages.error(request, str(error))
    else:
        note(request.user, f"cached model {removed.model}", "removed", "on the page", size_bytes=removed.size_bytes)
        messages.success(request, f"{removed.model} is out of the cache; it is downloaded when somebody starts it.")
    return redirect("admin:cached_models")


urls = [
    path("settings/", admin.site.admin_view(settings_page), name="settings"),
    path("cached-models/", admin.site.admin_view(cached_models), name="cached_models"),
    path("cached-models/remove/", admin.site.admin_view(remove_cached_model), name="remove_cached_model"),
    path("audit/", admin.site.admin_view(audit_now), name="audit_now"),
]
