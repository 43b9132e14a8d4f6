"""What `/api/v1/recipes` takes and gives."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from engines import recipe_differences, recipe_measures, recipes
from engines.order_serializers import EngineOrderSerializer, IdleMinutesField, LeaseHoursField, NamesField
from engines.recipe_models import Recipe
from engines.serializers import OnBehalfSerializer, OptionalTextField
from vllm_portal.rest import StrictCharField

_FIXED = "The recipe fixes it: start with the options of your own, or make another recipe."


class RecipeNameField(StrictCharField):
    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=80, help_text="Of one's own recipes each has another.", **options)

    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data)
        if not name.isprintable() or name.isdecimal():
            raise serializers.ValidationError("Use characters that can be seen, and not digits alone.")
        return name


class NotesField(StrictCharField):
    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, max_length=2000, help_text="For whoever starts it.")


class PublishedField(serializers.BooleanField):
    def __init__(self) -> None:
        super().__init__(required=False, help_text="For all users; admins alone can say so.")


class _FixedSerializer(serializers.Serializer):
    """Refuses what a recipe fixes; other unknown fields are ignored as everywhere."""

    def to_internal_value(self, data: Any) -> Any:
        if wrong := {name: [_FIXED] for name in recipes.FIXED if name in data}:
            raise serializers.ValidationError(wrong)
        return super().to_internal_value(data)


class RecipeChangeSerializer(_FixedSerializer):
    """What is missing stays. What vLLM is told cannot be changed."""

    name = RecipeNameField(required=False)
    notes = NotesField()
    published = PublishedField()
    lease_hours = LeaseHoursField(help_text="How long its engines may run; null: settings.")
    idle_minutes = IdleMinutesField(help_text="They are stopped after so long without a request; null: settings.")
    sleep_minutes = IdleMinutesField(help_text="They are put to vLLM's sleep after so long; null: settings.")
    wakes = serializers.BooleanField(required=False, help_text="Stopped for that they sleep until a request comes.")


class RecipeOrderSerializer(EngineOrderSerializer):
    """A name, and the engine that it is made from, or else the options of a start."""

    name = RecipeNameField()
    notes = NotesField()
    published = PublishedField()
    engine = serializers.UUIDField(required=False, help_text="One of yours, in any state; then no options.")
    model = StrictCharField(
        required=False, trim_whitespace=False, max_length=300, help_text="Where no engine is named."
    )
    hugging_face_hub_token = OptionalTextField(
        unset=("None",), max_length=500, write_only=True, help_text="To look at the model; it is not kept."
    )
    shared = shared_users = shared_groups = None

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        if "engine" in given:
            if wrong := {name: ["Name an engine or options."] for name in recipes.FIXED if name in self.initial_data}:
                raise serializers.ValidationError(wrong)
        elif "model" not in given:
            raise serializers.ValidationError({"model": ["Name a model, or an engine."]})
        return given

    def order(self) -> Any:
        self.validated_data.update(shared=False, shared_users=[], shared_groups=[])
        return super().order()

    @property
    def about(self) -> dict[str, Any]:
        """What is not of the start."""
        known = ("name", "notes", "published")
        return {name: self.validated_data[name] for name in known if name in self.validated_data}


class RecipeStartSerializer(OnBehalfSerializer, _FixedSerializer):
    """Whose token, how long, with whom. What is missing is as the recipe says."""

    hugging_face_hub_token = OptionalTextField(unset=("None",), max_length=500, write_only=True)
    shared = serializers.BooleanField(default=False, help_text="Every user may send requests to the engine.")
    shared_users = NamesField(default=list, help_text="Names of users who may send requests to it.")
    shared_groups = NamesField(default=list, help_text="Names of groups whose members may.")
    lease_hours = LeaseHoursField(help_text="How long it may run; null: settings.")
    idle_minutes = IdleMinutesField(help_text="Stopped after so long without a request; null: settings.")
    sleep_minutes = IdleMinutesField(help_text="Put to vLLM's sleep after so long; null: settings.")
    wakes = serializers.BooleanField(required=False, help_text="Stopped for that it sleeps until a request wakes it.")

    @property
    def wish(self) -> dict[str, Any]:
        """For `recipes.order_of`."""
        given = {name: value for name, value in self.validated_data.items() if name != "username"}
        given["hf_token"] = given.pop("hugging_face_hub_token") or ""
        return given | {name: tuple(given[name]) for name in ("shared_users", "shared_groups")}


class MeasuredSerializer(serializers.Serializer):
    """At the last starts of the same kind, whoever made them."""

    starts = serializers.IntegerField(help_text="How many these were; at most 10.")
    load_s = serializers.FloatField(allow_null=True, help_text="Median seconds from its place until it is ready.")
    tokens_per_s = serializers.FloatField(allow_null=True, help_text="The most that one was seen to generate.")
    kv_cache_tokens = serializers.IntegerField(allow_null=True, help_text="That fit into the latest one's KV cache.")


class RecipeSerializer(serializers.ModelSerializer):
    """A recipe, for who may start it."""

    owner = serializers.CharField(source="owner.username", default="", help_text="Name of the user; empty: removed.")
    measured = serializers.SerializerMethodField()
    warnings = serializers.SerializerMethodField(help_text="How a start now would differ from what it was made with.")

    class Meta:
        model = Recipe
        fields = [
            "id", "name", "owner", "published", "notes", "model", "revision", "tokenizer", "tokenizer_revision",
            "max_model_len", "tensor_parallel_size", "seed", "quantization", "gpu_memory_utilization", "adapters",
            "launcher", "device", "image", "image_digest", "vllm_version", "lease_hours", "idle_minutes",
            "sleep_minutes", "wakes", "created_at", "measured", "warnings",
        ]  # fmt: skip

    @extend_schema_field(MeasuredSerializer)
    def get_measured(self, recipe: Recipe) -> Any:
        if "measured" not in self.context:
            shown = [self.instance] if self.parent is None else list(self.parent.instance)
            self.context["measured"] = recipe_measures.of(shown)
        return MeasuredSerializer(self.context["measured"][recipe.pk]).data

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_warnings(self, recipe: Recipe) -> list[str]:
        today = self.context.setdefault("today", recipe_differences.Today())
        return recipe_differences.before(recipe, today)
