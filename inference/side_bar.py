"""The playground's side bar: one's conversations as a piece of the page, found, renamed and deleted.

Whoever was logged out meanwhile is told so, and the page stays: what was said and typed there is in no other place.
"""

import uuid
from collections.abc import Callable
from functools import wraps

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import trigger_client_event

from inference import conversations
from inference.models import Conversation

AT_ONCE = 30
LONGEST_NAME = 200


def _for_who_is_logged_in(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @never_cache
    @wraps(view)
    def asked(request: HttpRequest, *args: str, **kwargs: str) -> HttpResponse:
        if not request.user.is_authenticated:
            return render(request, "inference/logged_out.html", status=401)
        return view(request, *args, **kwargs)

    return asked


@require_safe
@_for_who_is_logged_in
def listed(request: HttpRequest) -> HttpResponse:
    """`?search=`: words of the name, all of them. `?from=`: without the first ones, which stand there already."""
    return _list(request, request.GET)


@require_POST
@_for_who_is_logged_in
def rename(request: HttpRequest, conversation_id: str) -> HttpResponse:
    if found := _own(request, conversation_id):
        conversations.rename(found, _text(request.POST.get("name", ""))[:LONGEST_NAME])
    return _list(request, request.POST)


@require_POST
@_for_who_is_logged_in
def delete(request: HttpRequest, conversation_id: str) -> HttpResponse:
    if found := _own(request, conversation_id):
        found.delete()
    return trigger_client_event(_list(request, request.POST), "conversation-gone", {"id": conversation_id})


def _list(request: HttpRequest, asked: dict[str, str]) -> HttpResponse:
    rows = Conversation.objects.filter(user=request.user).order_by("-updated_at", "-number")
    search = _text(asked.get("search", ""))
    for word in search.split():
        rows = rows.filter(Q(name__icontains=word) | Q(title__icontains=word))
    first = asked.get("from", "")
    start = int(first) if first.isdecimal() and len(first) < 9 else 0
    found = list(rows[start : start + AT_ONCE + 1])
    more = start + AT_ONCE if len(found) > AT_ONCE else None
    context = {"conversations": found[:AT_ONCE], "search": search, "more": more}
    return render(request, "inference/conversations.html", context)


def _own(request: HttpRequest, conversation_id: str) -> Conversation | None:
    """None: what is gone already is gone."""
    try:
        identity = uuid.UUID(conversation_id)
    except ValueError:
        return None
    return Conversation.objects.filter(user=request.user, conversation_id=identity).first()


def _text(given: str) -> str:
    return given.replace("\0", "").strip()
