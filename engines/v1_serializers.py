"""What `/api/v1/engines` and `/api/v1/nodes` take and give."""

from typing import Any

from django_filters import rest_framework as filters
from rest_framework import serializers

from engines.models import Engine
from engines.preflight import Order
from engines.serializers import EventSerializer, OnBehalfSerializer, OptionalTextField, endpoint_of
from engines.states import State
from engines.vllm_command import MAX_MODEL_LEN, MAX_SEED
from vllm_portal.errors import FieldError
from vllm_portal.rest import LenientIntegerField, StrictCharField


class EngineOrderSerializer(OnBehalfSerializer):
    """What to start; the options of the documented start under vLLM's own names."""

    model = StrictCharField(
        trim_whitespace=False, max_length=300, help_text="Name on Hugging Face, or an allowed folder."
    )
    hugging_face_hub_token = OptionalTextField(unset=("None",), max_length=500, write_only=True)
    max_model_len = LenientIntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=MAX_MODEL_LEN,
        help_text="Longest request in tokens. Missing: the model's own.",
    )  # fmt: skip
    tensor_parallel_size = LenientIntegerField(
        required=False, allow_null=True, default=1, min_value=1, max_value=1024, help_text="Number of GPUs."
    )
    seed = LenientIntegerField(required=False, allow_null=True, default=None, min_value=0, max_value=MAX_SEED)
    tokenizer = OptionalTextField(unset=("auto", "None"), trim_whitespace=False, max_length=300)
    quantization = OptionalTextField(unset=("auto", "None"), trim_whitespace=False, max_length=40)
    shared = serializers.BooleanField(default=False, help_text="Every user may send requests to the engine.")

    def order(self) -> Order:
        given = self.validated_data
        return Order(
            model=given["model"],
            hf_token=given["hugging_face_hub_token"] or "",
            max_model_len=given["max_model_len"],
            tensor_parallel_size=given["tensor_parallel_size"] or 1,
            seed=given["seed"],
            tokenizer=given["tokenizer"] or "",
            quantization=given["quantization"] or "",
            shared=given["shared"],
        )

    def as_written(self, error: FieldError) -> FieldError:
        """The documented start calls its fields by other names."""
        if error.field == "Idempotency-Key":
            return error
        return FieldError(error.field.lower(), str(error))


class EngineResourceSerializer(serializers.ModelSerializer):
    """An engine in any state. Needs `request` in its context, for the URL."""

    owner = serializers.CharField(source="owner.username", default="", help_text="Name of the user; empty: removed.")
    container_id = serializers.CharField(source="public_container_id")
    max_model_len = serializers.SerializerMethodField(help_text="As served, else as asked for; null: not known yet.")
    endpoint = serializers.SerializerMethodField(help_text="For any OpenAI client, with the portal's own key.")

    class Meta:
        model = Engine
        fields = [
            "id", "name", "model", "state", "state_since", "detail", "cause_code", "cause", "advice", "owner",
            "shared", "endpoint", "task", "max_model_len", "tensor_parallel_size", "seed", "tokenizer",
            "quantization", "launcher", "device", "image", "container_id", "created_at", "ready_at", "ended_at",
        ]  # fmt: skip

    def get_max_model_len(self, engine: Engine) -> int | None:
        return engine.served_max_model_len or engine.max_model_len

    def get_endpoint(self, engine: Engine) -> str:
        return endpoint_of(engine, self.context["request"]).removesuffix("/completions")


class EngineEventSerializer(EventSerializer):
    pass


class EngineFilter(filters.FilterSet):
    state = filters.MultipleChoiceFilter(choices=State.choices)
    model = filters.CharFilter()
    owner = filters.CharFilter(field_name="owner__username", help_text="For admins: name of a user.")

    class Meta:
        model = Engine
        fields: list[str] = []


class LogQuerySerializer(serializers.Serializer):
    tail = serializers.IntegerField(required=False, min_value=1, max_value=100_000, help_text="Only the last lines.")
    download = serializers.BooleanField(required=False, default=False, help_text="As a file.")


class GpuSerializer(serializers.Serializer):
    index = serializers.IntegerField()
    uuid = serializers.CharField()
    name = serializers.CharField()
    memory_bytes = serializers.IntegerField()
    engine = serializers.CharField(allow_null=True, help_text="Name of the engine that holds it; null: free.")


class NodeSerializer(serializers.Serializer):
    """A machine that runs engines."""

    id = serializers.CharField()
    launcher = serializers.CharField(help_text="How engines are run: docker, process or simulator.")
    device = serializers.CharField(help_text="cuda, rocm or cpu.")
    gpus = GpuSerializer(many=True)
    engines = serializers.ListField(child=serializers.CharField(), help_text="Names of yours here; for admins of all.")


class NodePageSerializer(serializers.Serializer):
    """All nodes are on one page."""

    next = serializers.CharField(allow_null=True)
    previous = serializers.CharField(allow_null=True)
    results = NodeSerializer(many=True)


def validated(serializer: type[serializers.Serializer], data: Any) -> dict[str, Any]:
    """Raises ValidationError that names the field."""
    form = serializer(data=data)
    form.is_valid(raise_exception=True)
    return form.validated_data
