"""`/api/v1/aliases`: other names for models and engines, for admins."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts.auth import IsAdmin
from accounts.change_log import note
from inference import aliases
from inference.models import ModelAlias
from vllm_portal.rest import StrictCharField, json_object
from vllm_portal.v1 import Ordering, Page

_ONE = {"id": 1, "name": "gpt-4o-mini", "targets": ["Qwen/Qwen2.5-7B-Instruct"]}
_SHOWN = OpenApiExample("One", _ONE, response_only=True)
_GIVEN = OpenApiExample("For one model", {name: _ONE[name] for name in ("name", "targets")}, request_only=True)


class AliasSerializer(serializers.ModelSerializer):
    name = StrictCharField(max_length=200, help_text="What clients send as model.")
    targets = serializers.ListField(
        child=StrictCharField(max_length=300, trim_whitespace=False),
        min_length=1,
        max_length=aliases.MOST_TARGETS,
        help_text="Names of models or engines.",
    )

    class Meta:
        model = ModelAlias
        fields = ["id", "name", "targets"]


@extend_schema_view(
    list=extend_schema(examples=[_SHOWN]),
    retrieve=extend_schema(examples=[_SHOWN]),
    create=extend_schema(examples=[_GIVEN, _SHOWN]),
    partial_update=extend_schema(
        examples=[OpenApiExample("Another model", {"targets": ["acme/tiny"]}, request_only=True), _SHOWN]
    ),
)
class AliasViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, mixins.UpdateModelMixin,
    mixins.DestroyModelMixin, GenericViewSet,
):  # fmt: skip
    """Other names for models and engines, for admins. A change counts from the next request on."""

    queryset = ModelAlias.objects.all()
    permission_classes = [IsAuthenticated, IsAdmin]
    serializer_class = AliasSerializer
    http_method_names = ["get", "post", "patch", "delete", "head", "options"]
    lookup_value_regex = "[0-9]{1,18}"
    pagination_class = Page
    filter_backends = [Ordering]
    ordering_fields = ["name"]
    ordering = ["name", "id"]

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        return Response(self._saved(ModelAlias(), form.validated_data, "added"), status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        form = self.get_serializer(data=json_object(request.data), partial=True)
        form.is_valid(raise_exception=True)
        return Response(self._saved(self.get_object(), form.validated_data, "changed"))

    def perform_destroy(self, instance: ModelAlias) -> None:
        note(self.request.user, instance, "removed")
        aliases.remove(instance)

    def _saved(self, alias: ModelAlias, given: dict[str, Any], did: str) -> dict[str, Any]:
        for name, value in given.items():
            setattr(alias, name, value)
        aliases.save(alias)
        note(self.request.user, alias, did, **given)
        return self.get_serializer(alias).data
