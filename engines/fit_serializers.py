"""What `/api/v1/engines/fit` takes and gives."""

from rest_framework import serializers

from engines.fit.budget import Place
from engines.fit.flags import GIB
from engines.order_serializers import EngineOrderSerializer
from vllm_portal.config import get_config
from vllm_portal.rest import LenientIntegerField, StrictCharField

MOST_KINDS = 20
LARGEST_GPU_GIB = 100_000


class GpuKindSerializer(serializers.Serializer):
    """GPUs to judge, whether they are here or not."""

    name = StrictCharField(required=False, default="GPU", max_length=100, help_text="As nvidia-smi calls it.")
    memory_gib = serializers.FloatField(min_value=0.1, max_value=LARGEST_GPU_GIB, help_text="Of each, in GiB.")
    count = LenientIntegerField(required=False, default=1, min_value=1, max_value=1024)


class FitOrderSerializer(EngineOrderSerializer):
    """What a start takes, and where it is to fit."""

    kv_cache_dtype = serializers.ChoiceField(
        ["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"], required=False, default="auto"
    )
    gpus = GpuKindSerializer(
        many=True, required=False, default=list, max_length=MOST_KINDS, help_text="Missing: the GPUs that are here."
    )

    def places(self) -> list[Place]:
        device = get_config().device
        return [
            Place(
                "cuda" if device == "cpu" else device,
                kind["name"],
                int(kind["memory_gib"] * GIB),
                kind["count"],
                kind["count"],
            )
            for kind in self.validated_data["gpus"]
        ]


class ChangeSerializer(serializers.Serializer):
    """One change that alone makes it fit."""

    field = serializers.CharField(help_text="A field of the start, cpu_kv_cache_gib, or model: a smaller one.")
    value = serializers.JSONField(help_text="What to set it to; null for model, and for adapters: none of them.")
    text = serializers.CharField()


class VerdictSerializer(serializers.Serializer):
    """Bytes are of each GPU; on a CPU of each of the engine's workers."""

    device = serializers.CharField(source="place.device")
    name = serializers.CharField(source="place.name")
    memory_bytes = serializers.IntegerField(source="place.memory_bytes")
    count = serializers.IntegerField(source="place.count", help_text="GPUs of this kind; on a CPU its slots.")
    free = serializers.IntegerField(source="place.free", help_text="Those that no engine holds.")
    fits = serializers.BooleanField(allow_null=True, help_text="Null: it cannot be said.")
    basis = serializers.ChoiceField(["measured", "estimated"], help_text="measured: at an earlier start here.")
    weights_bytes = serializers.IntegerField(allow_null=True)
    adapters_bytes = serializers.IntegerField(
        help_text="Room for LoRA adapters, an estimate; 0 also where it is within weights that were measured."
    )
    overhead_bytes = serializers.IntegerField(help_text="What vLLM takes beside weights and KV cache.")
    cache_bytes = serializers.IntegerField(allow_null=True, help_text="What is left for the KV cache.")
    needed_bytes = serializers.IntegerField(help_text="KV cache of one request of max_model_len tokens.")
    max_model_len = serializers.IntegerField(help_text="The longest request that would fit.")
    requests_at_once = serializers.IntegerField(help_text="Requests of the asked length that fit at once.")
    problem = serializers.CharField(help_text="Why it does not fit.")
    changes = ChangeSerializer(many=True)


class FitSerializer(serializers.Serializer):
    """Whether the model fits. Says nothing about whether a start is allowed, and refuses none."""

    model = serializers.CharField()
    commit = serializers.CharField(help_text="Of the model's repository; empty for a folder.")
    fits = serializers.BooleanField(allow_null=True, help_text="Somewhere; null: it cannot be said.")
    fits_now = serializers.BooleanField(allow_null=True, help_text="On GPUs that are free.")
    max_model_len = serializers.IntegerField(help_text="As asked for, else what vLLM takes.")
    model_max_len = serializers.IntegerField(allow_null=True, help_text="The model's own limit.")
    tensor_parallel_sizes = serializers.ListField(child=serializers.IntegerField(), help_text="That divide its heads.")
    parameters = serializers.IntegerField(allow_null=True)
    weights_bytes = serializers.IntegerField(allow_null=True, help_text="On all GPUs together, once loaded.")
    kv_cache_bytes_per_token = serializers.IntegerField(help_text="On each GPU.")
    kv_cache_bytes_per_distant_token = serializers.IntegerField(
        help_text="The same, once the windows of sliding-window layers are full."
    )
    places = VerdictSerializer(source="verdicts", many=True)
    notes = serializers.ListField(child=serializers.CharField(), help_text="What to know about these numbers.")
