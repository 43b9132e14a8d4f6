"""Pages that belong to no app."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import quotas
from engines.models import Engine
from vllm_portal.config import get_config

LATEST = 20


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """The first page: where everything is; for someone logged in also their engines and what they have spent."""
    public_url = get_config().public_url or request.build_absolute_uri("/")
    context = {"portal_url": public_url.rstrip("/")}
    if request.user.is_authenticated:
        engines = Engine.objects.filter(owner=request.user)
        context |= {
            "engines": engines[:LATEST],
            "older_engines": max(0, engines.count() - LATEST),
            "numbers": quotas.live_numbers(request.user),
        }
    return render(request, "home.html", context)


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The web process answers. No login, no database: for a supervisor's or a proxy's check."""
    return JsonResponse({"status": "ok"})
