"""`/api/v1/recipes`: starts that can be made again exactly."""

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts.change_log import note
from engines import recipes
from engines.models import Engine
from engines.recipe_models import Recipe
from engines.recipes_serializers import (
    RecipeChangeSerializer,
    RecipeOrderSerializer,
    RecipeSerializer,
    RecipeStartSerializer,
)
from engines.v1 import IDEMPOTENCY_KEY, owner_of, start_order
from engines.v1_examples import ACCEPTED
from engines.v1_serializers import EngineResourceSerializer, validated
from vllm_portal.errors import FieldError, NotFound
from vllm_portal.rest import json_object
from vllm_portal.v1 import Ordering, Page

_ONE = {
    "id": 7,
    "name": "exam",
    "owner": "root",
    "published": True,
    "notes": "For the exam of the course; asks for 1 GPU.",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "revision": "a09a35458c702b33eeacc393d103063234e8bc28",
    "tokenizer": "",
    "tokenizer_revision": "",
    "max_model_len": 8192,
    "tensor_parallel_size": 1,
    "seed": 7,
    "quantization": "",
    "gpu_memory_utilization": None,
    "adapters": [],
    "launcher": "docker",
    "device": "cuda",
    "image": "vllm/vllm-openai:v0.32.0",
    "image_digest": "sha256:5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270",
    "vllm_version": "0.32.0",
    "lease_hours": 4.0,
    "idle_minutes": None,
    "sleep_minutes": None,
    "wakes": True,
    "created_at": "2030-01-01T12:00:00Z",
    "measured": {"starts": 3, "load_s": 71.5, "tokens_per_s": 1840.0, "kv_cache_tokens": 412160},
    "warnings": [],
}
_SHOWN = OpenApiExample("One", _ONE, response_only=True)


@extend_schema_view(list=extend_schema(examples=[_SHOWN]), retrieve=extend_schema(examples=[_SHOWN]))
class RecipeViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
    """Recipes: your own and those that admins have published; for admins all. Yours are yours to change."""

    queryset = Recipe.objects.none()
    serializer_class = RecipeSerializer
    lookup_value_regex = "[0-9]{1,18}"
    pagination_class = Page
    filter_backends = [Ordering]
    ordering_fields = ["name", "model", "created_at"]
    ordering = ["name", "id"]

    def get_queryset(self) -> QuerySet[Recipe]:
        changing = self.action in ("partial_update", "destroy")
        rows = recipes.owned_by(self.request.user) if changing else recipes.visible_to(self.request.user)
        return rows.select_related("owner")

    def get_object(self) -> Recipe:
        recipe = self.get_queryset().filter(pk=int(self.kwargs["pk"])).first()
        if recipe is None:
            raise NotFound("There is no such recipe among yours.")
        return recipe

    @extend_schema(
        request=RecipeOrderSerializer,
        responses={201: RecipeSerializer},
        examples=[
            OpenApiExample(
                "From an engine",
                {"name": "exam", "engine": "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07"},
                request_only=True,
            ),
            OpenApiExample(
                "From options", {"name": "small", "model": "facebook/opt-125m", "seed": 7}, request_only=True
            ),
            OpenApiExample("Made", _ONE, response_only=True, status_codes=["201"]),
        ],
    )
    def create(self, request: Request) -> Response:
        """Makes a recipe of one of your engines, in whatever state, or of options, which are checked as at a start."""
        form = RecipeOrderSerializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        if (identity := form.validated_data.get("engine")) is not None:
            engine = Engine.objects.owned_by(request.user).filter(pk=identity).first()
            if engine is None:
                raise FieldError("engine", "There is no such engine among yours.")
            recipe = recipes.from_engine(request.user, engine, form.about)
        else:
            try:
                recipe = recipes.from_order(request.user, form.order(), form.about)
            except FieldError as error:
                raise form.as_written(error) from None
        if recipe.published:
            note(request.user, recipe, "added", published=True)
        return Response(RecipeSerializer(recipe).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        request=RecipeChangeSerializer,
        examples=[OpenApiExample("For all", {"published": True}, request_only=True), _SHOWN],
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        """Changes its name, notes, for whom it is, and how long its engines stay. What is started is fixed."""
        given = validated(RecipeChangeSerializer, json_object(request.data))
        recipe = self.get_object()
        recipes.change(recipe, request.user, given)
        if recipe.owner_id != request.user.pk or "published" in given:
            note(request.user, recipe, "changed", **given)
        return Response(RecipeSerializer(recipe).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Its engines stay."""
        recipes.remove(self.get_object(), request.user)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(
        request=RecipeStartSerializer,
        responses={202: EngineResourceSerializer},
        parameters=[IDEMPOTENCY_KEY],
        examples=[OpenApiExample("For two hours", {"lease_hours": 2}, request_only=True), ACCEPTED],
        filters=False,
    )
    @action(detail=True, methods=["post"], pagination_class=None, filter_backends=[])
    def start(self, request: Request, pk: str) -> Response:
        """Starts an engine exactly so. Its `warnings` say where that cannot be: another image, another vLLM."""
        form = RecipeStartSerializer(data=json_object(request.data), context={"request": request})
        form.is_valid(raise_exception=True)
        order = recipes.order_of(self.get_object(), form.wish)
        try:
            return start_order(request, order, owner_of(request, form.validated_data))
        except FieldError as error:
            raise FieldError(error.field.lower(), str(error)) from None
