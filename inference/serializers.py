"""What `/llm_request` takes and gives."""

from rest_framework import serializers

from vllm_portal.rest import LenientFloatField, LenientIntegerField, StrictCharField


class LlmRequestSerializer(serializers.Serializer):
    """Unknown fields are ignored: existing clients send `username` along."""

    model = StrictCharField(max_length=300, help_text="As /active_models/ names it.")
    inference_endpoint = StrictCharField(
        max_length=500,
        required=False,
        default="",
        allow_blank=True,
        help_text="`inference_end_point` of /active_models/. Missing: an engine of that model that you may use.",
    )
    prompt = StrictCharField(trim_whitespace=False)
    memory = serializers.BooleanField(default=False, help_text="Remember this turn, and send the turns before it.")
    conversation_number = LenientIntegerField(
        required=False, allow_null=True, default=None, min_value=-1, max_value=2**31 - 1,
        help_text="Missing, null, -1 or 0: your latest conversation, made if there is none.",
    )  # fmt: skip
    stream = serializers.BooleanField(default=False, help_text="Answer as server-sent events.")
    temperature = LenientFloatField(required=False, min_value=0, max_value=2)
    top_p = LenientFloatField(required=False, min_value=0.000001, max_value=1)
    max_tokens = LenientIntegerField(required=False, min_value=1, max_value=2**31 - 1)
    system = StrictCharField(required=False, allow_blank=True, trim_whitespace=False)


class LlmAnswerSerializer(serializers.Serializer):
    username = serializers.CharField()
    data = serializers.CharField(help_text="The answer's text.")
