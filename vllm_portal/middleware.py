"""Django middleware of the control plane."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from vllm_portal.ids import accepted_id
from vllm_portal.log import request_id


class RequestIdMiddleware:
    """Gives each request an id: in the log's lines and in the `x-request-id` of the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        identity = accepted_id(request.headers.get("x-request-id", ""))
        token = request_id.set(identity)
        try:
            response = self.get_response(request)
        finally:
            request_id.reset(token)
        response["x-request-id"] = identity
        return response


class BodyLengthMiddleware:
    """A body sent in chunks comes without its length, and REST framework takes it for an empty one: by now all of it
    is here, so its length is known."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
            request.META["CONTENT_LENGTH"] = str(len(request.body))
        return self.get_response(request)
