"""`/api/v1/cached-models`: what the Hugging Face cache holds, for admins."""

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from accounts.auth import IsAdmin
from accounts.change_log import note
from engines import model_cache
from vllm_portal.errors import NotFound

_ONE = {
    "id": "Qwen--Qwen2.5-7B-Instruct",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "size_bytes": 15242799104,
    "unfinished_bytes": 0,
    "commits": ["a09a35458c702b33eeacc393d103063234e8bc28"],
    "engines": ["Qwen2.5-7B-Instruct-3fa9"],
    "started_at": "2026-11-24T08:00:00Z",
}
_DISK = {"folder": "/srv/huggingface/hub", "size_bytes": 3840755982336, "free_bytes": 1204150935552}


class CachedModelSerializer(serializers.Serializer):
    """A model in the cache."""

    id = serializers.CharField()
    model = serializers.CharField(help_text="Its name on Hugging Face.")
    size_bytes = serializers.IntegerField()
    unfinished_bytes = serializers.IntegerField(help_text="Of these: of downloads that have not ended.")
    commits = serializers.ListField(child=serializers.CharField(), help_text="Whose files are there.")
    engines = serializers.ListField(child=serializers.CharField(), help_text="Names of those that run with it.")
    started_at = serializers.DateTimeField(allow_null=True, help_text="When an engine was last asked for with it.")


class DiskSerializer(serializers.Serializer):
    folder = serializers.CharField()
    size_bytes = serializers.IntegerField(help_text="Of its file system.")
    free_bytes = serializers.IntegerField()


class CachedModelPageSerializer(serializers.Serializer):
    """All models are on one page, the largest first."""

    next = serializers.CharField(allow_null=True)
    previous = serializers.CharField(allow_null=True)
    results = CachedModelSerializer(many=True)
    disk = DiskSerializer()


class CachedModelViewSet(ViewSet):
    """The models in the Hugging Face cache of this machine, for admins: what they take, who uses them, and how they go.
    A model that is removed is downloaded again when somebody starts it."""

    permission_classes = [IsAuthenticated, IsAdmin]
    serializer_class = CachedModelSerializer
    lookup_value_regex = "[A-Za-z0-9][A-Za-z0-9_.-]{0,200}"

    @extend_schema(
        responses=CachedModelPageSerializer,
        examples=[
            OpenApiExample(
                "One model", {"next": None, "previous": None, "results": [_ONE], "disk": _DISK}, response_only=True
            )
        ],
    )
    def list(self, request: Request) -> Response:
        page = {"next": None, "previous": None, "results": model_cache.listed(), "disk": model_cache.disk()}
        return Response(CachedModelPageSerializer(page).data)

    @extend_schema(
        responses=CachedModelSerializer,
        parameters=[OpenApiParameter("id", str, OpenApiParameter.PATH)],
        examples=[OpenApiExample("One", _ONE, response_only=True)],
    )
    def retrieve(self, request: Request, pk: str) -> Response:
        for one in model_cache.listed():
            if one.id == pk:
                return Response(CachedModelSerializer(one).data)
        raise NotFound("The cache has no such model.")

    @extend_schema(responses={204: None}, parameters=[OpenApiParameter("id", str, OpenApiParameter.PATH)])
    def destroy(self, request: Request, pk: str) -> Response:
        removed = model_cache.remove(pk, timezone.now())
        note(request.user, f"cached model {removed.model}", "removed", size_bytes=removed.size_bytes)
        return Response(status=status.HTTP_204_NO_CONTENT)
