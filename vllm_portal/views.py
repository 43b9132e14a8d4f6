"""Pages that belong to no app."""

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import quotas
from accounts.models import User
from engines import cards
from engines.launchers.choice import chosen_name
from engines.models import Engine, Gpu
from vllm_portal.config import get_config


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """The first page: for someone logged in their engines and what they have spent, else what the portal is."""
    public_url = get_config().public_url or request.build_absolute_uri("/")
    context = {"portal_url": public_url.rstrip("/")}
    if request.user.is_authenticated:
        shown = cards.shown(request.user, timezone.now())
        context |= {
            "shown": shown,
            "numbers": quotas.live_numbers(request.user),
            "is_new": request.user.is_admin and shown.nothing and not Engine.objects.exists(),
        }
    return render(request, "home.html", context)


@require_safe
@never_cache
@login_required
def welcome(request: HttpRequest) -> HttpResponse:
    """Takes an admin through the first steps. Each step is read from what is there, so none can be ticked wrongly."""
    if not request.user.is_admin:
        raise Http404
    context = {
        # Goes up with the first password that is set after the one that the portal was started with.
        "password_changed": User.objects.get(pk=request.user.pk).token_version > 1,
        "launcher": chosen_name(),
        "device": get_config().device,
        "gpus": Gpu.objects.filter(present=True),
        "first_engine": Engine.objects.select_related("owner").order_by("created_at").first(),
        "was_ready": Engine.objects.filter(ready_at__isnull=False).exists(),
    }
    return render(request, "welcome.html", context)


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The web process answers. No login, no database: for a supervisor's or a proxy's check."""
    return JsonResponse({"status": "ok"})
