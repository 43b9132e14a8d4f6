"""Django middleware about callers."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.decorators import sync_and_async_middleware


@sync_and_async_middleware
def arrival(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Notes when the request arrived, `request.arrived`: on the event loop, before it waits for its turn in a thread.
    What is first in line is not what came first; see `sessions.renew`."""

    async def on_loop(request: HttpRequest) -> Any:
        request.arrived = timezone.now()  # type: ignore[attr-defined]
        return await get_response(request)

    def in_thread(request: HttpRequest) -> Any:
        request.arrived = timezone.now()  # type: ignore[attr-defined]
        return get_response(request)

    return on_loop if iscoroutinefunction(get_response) else in_thread
