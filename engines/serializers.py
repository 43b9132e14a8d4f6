"""What the endpoints about engines take and give."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rest_framework import serializers

from engines.adapters import MOST, Adapter
from engines.models import Engine, EngineEvent
from engines.preflight import Order
from engines.vllm_command import MAX_MODEL_LEN, MAX_SEED
from vllm_portal.config import get_config
from vllm_portal.errors import FieldError
from vllm_portal.rest import LenientFloatField, LenientIntegerField, StrictCharField


class OptionalTextField(StrictCharField):
    """A string of which some values mean that there is none: they become "", and so does null."""

    def __init__(self, *, unset: tuple[str, ...] = (), **options: Any) -> None:
        self._unset = unset
        super().__init__(required=False, allow_blank=True, allow_null=True, default="", **options)

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        return "" if text in self._unset else text


class RevisionField(OptionalTextField):
    def __init__(self) -> None:
        super().__init__(
            unset=("auto", "None"), trim_whitespace=False, max_length=100,
            help_text="Branch, tag or commit of the model's repository. Missing: main, as it is now.",
        )  # fmt: skip


class GpuShareField(LenientFloatField):
    def __init__(self) -> None:
        super().__init__(
            required=False, allow_null=True, default=None, min_value=0.05, max_value=1.0,
            help_text="Share of each GPU's memory; other engines may use the rest. Missing: none may.",
        )  # fmt: skip


class AdapterSerializer(serializers.Serializer):
    """A LoRA adapter."""

    name = StrictCharField(max_length=64, help_text="Its owner's requests may call it so.")
    model = StrictCharField(max_length=300, trim_whitespace=False, help_text="Repository, or an allowed folder.")
    revision = RevisionField()


def adapters_field() -> serializers.ListSerializer:
    return AdapterSerializer(
        many=True, required=False, default=list, max_length=MOST,
        help_text="LoRA adapters, which requests may name in place of the model.",
    )  # fmt: skip


def adapters_of(given: list[dict[str, Any]]) -> tuple[Adapter, ...]:
    """Of the values of such a field."""
    return tuple(Adapter(one["name"], one["model"], one["revision"] or "") for one in given)


def order_of(given: Mapping[str, Any]) -> Order:
    """Of validated fields under vLLM's own names. What is None or not there is as `Order` has it."""
    said = {field.name: given[field.name] for field in fields(Order) if given.get(field.name) is not None}
    said |= {name: tuple(said[name]) for name in ("shared_users", "shared_groups") if name in said}
    return Order(
        **said | {"hf_token": given["hugging_face_hub_token"] or "", "adapters": adapters_of(given["adapters"])}
    )


class OnBehalfSerializer(serializers.Serializer):
    """For everyone but admins `username` is one more field that is ignored, whatever it holds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        request = self.context.get("request")
        if request is None or not request.user.is_admin:
            return
        self.fields["username"] = OptionalTextField(max_length=150)


class StartSerializer(OnBehalfSerializer):
    """Fields that are not named here are ignored."""

    HUGGING_FACE_HUB_TOKEN = OptionalTextField(
        unset=("None",), max_length=500, help_text='Access token, for a model that needs one. "None" and "": none.'
    )
    Model = OptionalTextField(
        trim_whitespace=False,
        max_length=300,
        help_text="Name on Hugging Face, such as facebook/opt-125m, or a folder that an admin allows. Required.",
    )
    MODEL = OptionalTextField(trim_whitespace=False, max_length=300, help_text="The same as Model.")
    REVISION = RevisionField()
    MAX_MODEL_LEN = LenientIntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=MAX_MODEL_LEN,
        help_text="Longest request in tokens. Missing: the model's own.",
    )  # fmt: skip
    TENSOR_PARALLEL_SIZE = LenientIntegerField(
        required=False, allow_null=True, default=1, min_value=1, max_value=1024, help_text="Number of GPUs."
    )
    SEED = LenientIntegerField(required=False, allow_null=True, default=None, min_value=0, max_value=MAX_SEED)
    TOKENIZER = OptionalTextField(
        unset=("auto", "None"), trim_whitespace=False, max_length=300, help_text="Missing: the model's own."
    )
    QUANTIZATION = OptionalTextField(
        unset=("auto", "None"), trim_whitespace=False, max_length=40, help_text="Missing: as the model's files say."
    )
    GPU_MEMORY_UTILIZATION = GpuShareField()
    ADAPTERS = adapters_field()
    shared = serializers.BooleanField(default=False, help_text="Every user may send requests to the engine.")
    wait = serializers.BooleanField(default=True, help_text="False: answer at once, like `Prefer: respond-async`.")

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        if not (given["Model"] or given["MODEL"]):
            raise serializers.ValidationError({self.model_field: ["This field is required."]})
        return given

    @property
    def model_field(self) -> str:
        """As the client wrote it."""
        return "MODEL" if "MODEL" in self.initial_data and not self.initial_data.get("Model") else "Model"

    def order(self) -> Order:
        given = self.validated_data
        model = given["Model"] or given["MODEL"]
        return order_of({name.lower(): value for name, value in given.items()} | {"model": model})

    def as_written(self, error: FieldError) -> FieldError:
        """The error under the name that the client used for the field."""
        return FieldError(self.model_field, str(error)) if error.field == "Model" else error


class TerminateSerializer(serializers.Serializer):
    container_id = StrictCharField(max_length=100, help_text="As /active_models/ gives it, or its first 12 digits.")
    engine_name = OptionalTextField(unset=("None",), max_length=80, help_text="If given, it has to fit.")
    now = serializers.BooleanField(
        required=False, default=False, help_text="What it answers is broken off; also of one that is ending already."
    )


class ListSerializer(OnBehalfSerializer):
    """What a POST for a list may hold; nothing is needed."""


class UserInfoSerializer(serializers.Serializer):
    """Who owns an engine."""

    username = serializers.CharField()
    hf_username = serializers.CharField(allow_null=True, help_text="Account of the Hugging Face token.")


class StartedSerializer(serializers.Serializer):
    message = serializers.CharField(help_text="How it stands; after a failure the cause and what to do.")
    vLLM_endpoint = serializers.CharField(help_text="For any OpenAI client, with the portal's own token.")
    user_info = UserInfoSerializer()
    status = serializers.ChoiceField(["healthy", "unhealthy"])
    container_id = serializers.CharField()
    engine_name = serializers.CharField()
    engine_id = serializers.CharField()


class TerminatedSerializer(serializers.Serializer):
    status = serializers.ChoiceField(["terminated", "terminating"])
    container_id = serializers.CharField()


class ActiveModelSerializer(serializers.ModelSerializer):
    """An engine that can be used. Needs `request` in its context, for the URL."""

    engine_name = serializers.CharField(source="name")
    container_id = serializers.CharField(source="public_container_id")
    model_name = serializers.CharField(source="model")
    quantized = serializers.SerializerMethodField()
    max_model_length = serializers.SerializerMethodField(help_text="In tokens; 0 where the engine does not tell.")
    seed = serializers.SerializerMethodField()
    inference_end_point = serializers.SerializerMethodField()
    timestamp = serializers.DateTimeField(source="created_at")
    user_id = serializers.SerializerMethodField()

    class Meta:
        model = Engine
        fields = [
            "engine_name", "container_id", "model_name", "quantized", "max_model_length", "seed",
            "inference_end_point", "timestamp", "user_id",
        ]  # fmt: skip

    def get_quantized(self, engine: Engine) -> bool:
        return bool(engine.quantization)

    def get_max_model_length(self, engine: Engine) -> int:
        return engine.served_max_model_len or engine.max_model_len or 0

    def get_seed(self, engine: Engine) -> int:
        """vLLM's own default is 0."""
        return engine.seed or 0

    def get_inference_end_point(self, engine: Engine) -> str:
        return endpoint_of(engine, self.context["request"])

    def get_user_id(self, engine: Engine) -> str:
        return "" if engine.owner_id is None else str(engine.owner_id)


class ActiveModelsSerializer(serializers.Serializer):
    engines = ActiveModelSerializer(many=True)


class EventSerializer(serializers.ModelSerializer):
    class Meta:
        model = EngineEvent
        fields = ["at", "old_state", "new_state", "message"]


class EngineSerializer(ActiveModelSerializer):
    """An engine in any state, for its owner."""

    engine_id = serializers.CharField(source="id")
    cause = serializers.CharField(help_text="Why it failed.")
    advice = serializers.CharField(help_text="What to do about it.")
    events = EventSerializer(many=True)

    class Meta(ActiveModelSerializer.Meta):
        fields = [
            "engine_id", *ActiveModelSerializer.Meta.fields, "shared", "state", "state_since", "detail",
            "cause_code", "cause", "advice", "events",
        ]  # fmt: skip


class LogSerializer(serializers.Serializer):
    log = serializers.CharField(help_text="The first and last parts of a long log.")


def portal_url(request: Any) -> str:
    """The portal as the client sees it, without a slash at its end."""
    return (get_config().public_url or request.build_absolute_uri("/")).rstrip("/")


def endpoint_of(engine: Engine, request: Any) -> str:
    """A URL of the portal; the engine's own address is nobody's business."""
    return f"{portal_url(request)}/engines/{engine.pk}/v1/completions"
