"""What every REST endpoint of the portal shares: error answers, paths with and without a slash, lenient numbers."""

import logging
import re
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import OperationalError
from django.urls import URLPattern, re_path
from rest_framework import exceptions, serializers, status
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_handler

from vllm_portal.errors import CallerError, Conflict, FieldError, NotFound, OperatorError, Unavailable

logger = logging.getLogger(__name__)

_DIGITS = re.compile(r"\s*-?[0-9]+\s*\Z")


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Turns the portal's errors into DRF-shaped answers: `{"detail": …}` or `{"<field>": [...]}`."""
    if isinstance(error, FieldError):
        return Response({error.field: [str(error)]}, status=status.HTTP_400_BAD_REQUEST)
    if isinstance(error, NotFound):
        return Response({"detail": str(error)}, status=status.HTTP_404_NOT_FOUND)
    if isinstance(error, Conflict):
        return Response({"detail": str(error)}, status=status.HTTP_409_CONFLICT)
    if isinstance(error, CallerError):
        return Response({"detail": str(error)}, status=status.HTTP_400_BAD_REQUEST)
    if isinstance(error, Unavailable):
        retry_after = {"retry-after": str(max(1, round(error.retry_after_s)))}
        return Response({"detail": str(error)}, status=status.HTTP_503_SERVICE_UNAVAILABLE, headers=retry_after)
    if isinstance(error, (OperatorError, OperationalError)):
        logger.error("operator must act: %s", error)
        detail = "The portal cannot answer now; its operator finds the cause in the log."
        return Response({"detail": detail}, status=status.HTTP_503_SERVICE_UNAVAILABLE, headers={"retry-after": "5"})
    if isinstance(error, RequestDataTooBig):
        detail = f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes."
        return Response({"detail": detail}, status=status.HTTP_413_REQUEST_ENTITY_TOO_LARGE)
    return drf_handler(error, context)


def endpoint(path: str, view: Any, name: str) -> URLPattern:
    """A route for `path` (written without its slash) that answers with and without the trailing slash."""
    return re_path(rf"^{path}/?\Z", view, name=name)


class LenientIntegerField(serializers.IntegerField):
    """An integer that may arrive as a string of digits; true, 1.5 and "1.0" are not integers."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, (bool, float)) or (isinstance(data, str) and not _DIGITS.match(data)):
            self.fail("invalid")
        return super().to_internal_value(data)


class LenientFloatField(serializers.FloatField):
    """A finite number, or a string of one; true is no number here."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictCharField(serializers.CharField):
    """A string that really is one: a number is refused instead of being turned into text."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if "\x00" in data:
            raise serializers.ValidationError("Null characters are not allowed.")
        return super().to_internal_value(data)


def json_object(data: Any) -> dict[str, Any]:
    """The request's body, which must be a JSON object."""
    if not isinstance(data, dict):
        raise exceptions.ParseError("The body must be a JSON object.")
    return data
