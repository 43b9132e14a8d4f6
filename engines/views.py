"""The pages of engines: cards, and one engine. What they do, the functions of the API do."""

import uuid
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRefresh, reswap

from engines import (
    cards,
    cards_stream,
    engine_logs,
    recipe_differences,
    sharing,
    starts,
    terminating,
    terms,
    waking,
)
from engines.models import Engine
from engines.order_serializers import EngineChangeSerializer, ExtensionSerializer, SharingSerializer
from engines.serializers import portal_url
from engines.states import FINAL
from vllm_portal.errors import CallerError, FieldError

_TERMS = {
    "hours": "Hours of its lease",
    "sleep_minutes": "Minutes until it dozes",
    "idle_minutes": "Minutes until it stops",
    "wakes": "Whether it sleeps",
    "keep_until": "But not before",
}
"""How long it stays, in the words of the form."""


@never_cache
@require_safe
def cards_fragment(request: HttpRequest) -> HttpResponse:
    """The cards alone, for the first page, which shows itself anew to whoever is logged out by now."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    return render(request, "engines/cards.html", {"shown": cards.shown(request.user, timezone.now())})


@require_safe
def cards_events(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    if not cards_stream.has_room(request.user.pk):
        return HttpResponse("Too many pages of yours are open.", status=429, content_type="text/plain")
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(cards_stream.changes(request.user), content_type="text/event-stream", headers=headers)


@never_cache
@login_required
@require_safe
def engine_page(request: HttpRequest, engine_id: str) -> HttpResponse:
    """A page that asks for its parts anew is loaded anew once the engine has ended: it has other buttons then."""
    engine = own(request, engine_id)
    if request.htmx and engine.state in FINAL:
        return HttpResponseClientRefresh()
    context = {
        "card": cards.card(engine, request.user, timezone.now()),
        "events": engine.events.all(),
        "steps": [(cards.STEPS[step.phase], step) for step in starts.timeline(engine)],
        "log": engine_logs.read(engine),
        "live": engine.state not in FINAL,
        "portal_url": portal_url(request),
        "differs": recipe_differences.of(engine, recipe_differences.Today()),
        "shared_with": {field: ", ".join(names) for field, names in sharing.names(engine).items()},
    }
    return render(request, "engines/engine.html", context)


@never_cache
@login_required
@require_POST
def stop_engine(request: HttpRequest, engine_id: str) -> HttpResponse:
    engine = own(request, engine_id)
    at_once = terminating.press(engine, request.user)
    messages.success(request, f"{engine.name} ends at once." if at_once else f"{engine.name} is being stopped.")
    return redirect("home")


@never_cache
@login_required
@require_POST
def wake_engine(request: HttpRequest, engine_id: str) -> HttpResponse:
    engine = own(request, engine_id)
    try:
        waking.wake(engine, str(request.user))
    except CallerError as error:
        messages.error(request, str(error))
    return redirect("engine-page", engine_id=engine.pk)


@never_cache
@login_required
@require_POST
def share_engine(request: HttpRequest, engine_id: str) -> HttpResponse:
    """Names are separated by commas or stand on lines of their own."""
    engine = own(request, engine_id)
    given: dict[str, Any] = {"shared": "shared" in request.POST}
    for field in ("shared_users", "shared_groups"):
        names = request.POST.get(field, "").replace("\n", ",").split(",")
        given[field] = [name.strip() for name in names if name.strip()]
    form = SharingSerializer(data=given)
    try:
        if form.is_valid():
            sharing.change(engine, **form.validated_data)
            messages.success(request, f"Saved who may send requests to {engine.name}.")
            return redirect("engine-page", engine_id=engine.pk)
        problem = "Names are at most 150 characters long, and there are at most 1,000 of them."
    except FieldError as error:
        problem = str(error)
    return _refused(request, engine, problem)


@never_cache
@login_required
@require_POST
def keep_engine(request: HttpRequest, engine_id: str) -> HttpResponse:
    """How long it stays. `hours`: empty leaves its lease; `idle_minutes`, `keep_until` (UTC) and `sleep_minutes`: empty
    takes them away, but the last one may be missing and stays then; `wakes`: empty is no."""
    engine, now = own(request, engine_id), timezone.now()
    given: dict[str, Any] = {name: request.POST.get(name) or None for name in ("idle_minutes", "keep_until")}
    if "sleep_minutes" in request.POST:
        given["sleep_minutes"] = request.POST["sleep_minutes"] or None
    given["wakes"] = "wakes" in request.POST
    form, extension = EngineChangeSerializer(data=given), ExtensionSerializer(data={"hours": request.POST.get("hours")})
    try:
        if not form.is_valid():
            problems = (f"{_TERMS[name]}: {said[0]}" for name, said in form.errors.items())
            return _refused(request, engine, " ".join(problems))
        if request.POST.get("hours") and not extension.is_valid():
            return _refused(request, engine, f"{_TERMS['hours']}: {extension.errors['hours'][0]}")
        with transaction.atomic():
            terms.change(engine, now, request.user, form.validated_data)
            if request.POST.get("hours"):
                terms.extend(engine, extension.validated_data["hours"], now, request.user)
    except CallerError as error:
        return _refused(request, engine, str(error))
    messages.success(request, f"Saved how long {engine.name} stays.")
    return redirect("engine-page", engine_id=engine.pk)


def _refused(request: HttpRequest, engine: Engine, problem: str) -> HttpResponse:
    """Where htmx sent the form it stays as it is, with what was typed."""
    messages.error(request, problem)
    if request.htmx:
        return reswap(render(request, "messages.html"), "none")
    return redirect("engine-page", engine_id=engine.pk)


def own(request: HttpRequest, engine_id: str) -> Engine:
    """Raises Http404."""
    engine = found(request, engine_id)
    if engine is None:
        raise Http404("There is no such engine among yours.")
    return engine


def found(request: HttpRequest, engine_id: str) -> Engine | None:
    try:
        identity = uuid.UUID(engine_id)
    except ValueError:
        return None
    engines = Engine.objects.owned_by(request.user).select_related("owner", "recipe")
    return engines.prefetch_related("gpu_leases__gpu").filter(pk=identity).first()
