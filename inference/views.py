"""The playground: a page to talk to engines. What it all cost is `inference.usage_page`."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts import browser_token
from engines.models import Engine
from vllm_portal.config import get_config


@never_cache
@login_required
@require_safe
def playground(request: HttpRequest) -> HttpResponse:
    """Where one talks to engines. `?engine=<name>` is chosen first. What is asked goes the way of everybody's requests:
    the page's script calls `/v1/chat/completions` with a token of `playground_token`."""
    awake = Engine.objects.serving().usable_by(request.user)
    engines = (awake | Engine.objects.wakeable().usable_by(request.user)).filter(task=Engine.Task.GENERATE)
    context = {
        "engines": engines.select_related("owner").order_by("model", "name"),
        "chosen": request.GET.get("engine", ""),
        "portal_url": (get_config().public_url or request.build_absolute_uri("/")).rstrip("/"),
    }
    return render(request, "inference/playground.html", context)


@never_cache
@require_POST
def playground_token(request: HttpRequest) -> JsonResponse:
    """An access token for the page's script, good for `expires_in` seconds. Only for a browser session, with its CSRF
    token: Django's middleware has checked that before."""
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "You are logged out. Log in again."}, status=401)
    lifetime = int(browser_token.LIFETIME.total_seconds())
    return JsonResponse({"access_token": browser_token.issue(request), "expires_in": lifetime})
