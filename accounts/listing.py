"""How lists under `/api/v1/` are ordered and filtered."""

from typing import Any

from django.db.models import QuerySet
from rest_framework.filters import OrderingFilter
from rest_framework.request import Request
from rest_framework.serializers import Serializer


class Ordering(OrderingFilter):
    """Ties are broken by the id: paging needs an order without ties."""

    def get_ordering(self, request: Request, queryset: QuerySet, view: Any) -> list[str]:
        ordering = list(super().get_ordering(request, queryset, view) or ())
        return ordering if {"id", "-id"} & set(ordering) else [*ordering, "-id"]


def asked(form: type[Serializer], request: Request) -> dict[str, Any]:
    """The query parameters that `form` knows and the request has. Raises ValidationError, which names the wrong one."""
    query = form(data=request.query_params.dict())
    query.is_valid(raise_exception=True)
    return query.validated_data
