"""What a start takes, and what changes an engine later."""

import math
from typing import Any

from rest_framework import serializers

from engines.preflight import Order
from engines.serializers import (
    GpuShareField,
    OnBehalfSerializer,
    OptionalTextField,
    RevisionField,
    adapters_field,
    order_of,
)
from engines.vllm_command import MAX_MODEL_LEN, MAX_SEED
from vllm_portal.errors import FieldError
from vllm_portal.rest import LenientIntegerField, StrictCharField

NAMES_OR_NULL = serializers.ListField(child=serializers.CharField(), allow_null=True)


class NamesField(serializers.ListField):
    """Names, each counted once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(child=StrictCharField(max_length=150), max_length=1000, **options)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(dict.fromkeys(super().to_internal_value(data)))


class LeaseHoursField(serializers.FloatField):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_null=True, min_value=0.01, max_value=24 * 3660, **{"required": False, **options})

    def to_internal_value(self, data: Any) -> float:
        hours = super().to_internal_value(data)
        if not math.isfinite(hours):
            self.fail("invalid")
        return hours


class IdleMinutesField(LenientIntegerField):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_null=True, min_value=1, max_value=1_000_000, **{"required": False, **options})


class EngineOrderSerializer(OnBehalfSerializer):
    """What to start; the options of the documented start under vLLM's own names."""

    model = StrictCharField(
        trim_whitespace=False, max_length=300, help_text="Name on Hugging Face, or an allowed folder."
    )
    hugging_face_hub_token = OptionalTextField(unset=("None",), max_length=500, write_only=True)
    revision = RevisionField()
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
    gpu_memory_utilization = GpuShareField()
    adapters = adapters_field()
    shared = serializers.BooleanField(default=False, help_text="Every user may send requests to the engine.")
    shared_users = NamesField(default=list, help_text="Names of users who may send requests to it.")
    shared_groups = NamesField(default=list, help_text="Names of groups whose members may.")
    lease_hours = LeaseHoursField(default=None, help_text="How long it may run, from its place on. Missing: settings.")
    idle_minutes = IdleMinutesField(default=None, help_text="Stopped after so long without a request.")
    sleep_minutes = IdleMinutesField(default=None, help_text="Put to vLLM's sleep after so long, where it can sleep.")
    wakes = serializers.BooleanField(
        default=True, help_text="Stopped for that it sleeps, until a request wakes it; false: it ends."
    )

    def order(self) -> Order:
        return order_of(self.validated_data)

    def as_written(self, error: FieldError) -> FieldError:
        """The documented start calls its fields by other names."""
        if error.field == "Idempotency-Key":
            return error
        return FieldError(error.field.lower(), str(error))


class EngineRetrySerializer(EngineOrderSerializer):
    """What is to be other than it was. Missing: as the engine's `change` says, else as it was."""

    model = None


class SharingSerializer(serializers.Serializer):
    """Who may send requests to an engine. What is missing stays; a list takes the place of the one before."""

    shared = serializers.BooleanField(required=False, help_text="Every user.")
    shared_users = NamesField(required=False, help_text="These users, by name.")
    shared_groups = NamesField(required=False, help_text="The members of these groups, by name.")


class EngineChangeSerializer(SharingSerializer):
    """What may be changed of an engine that there is. What is missing stays."""

    idle_minutes = IdleMinutesField(help_text="Stopped after so long without a request; null: as the settings say.")
    sleep_minutes = IdleMinutesField(help_text="Put to vLLM's sleep after so long; null: as the settings say.")
    wakes = serializers.BooleanField(required=False, help_text="Stopped for that it sleeps, until a request wakes it.")
    keep_until = serializers.DateTimeField(
        required=False, allow_null=True, help_text="Until then it is not stopped for being idle."
    )


class ExtensionSerializer(serializers.Serializer):
    hours = LeaseHoursField(default=None, help_text="From now on. Missing: as many as a new engine gets.")
