"""Django middleware of the control plane."""

import re
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from vllm_portal.log import request_id

_ACCEPTABLE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def new_request_id(offered: str | None) -> str:
    """The client's own id where it is harmless, else a new one."""
    return offered if offered and _ACCEPTABLE.match(offered) else uuid.uuid4().hex


class RequestIdMiddleware:
    """Gives each request an id: in the log's lines and in the `x-request-id` of the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        identity = new_request_id(request.headers.get("x-request-id"))
        token = request_id.set(identity)
        try:
            response = self.get_response(request)
        finally:
            request_id.reset(token)
        response["x-request-id"] = identity
        return response
