"""What the endpoints about API keys and their callers take and give."""

from datetime import datetime
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from accounts.keys import PACES, Rights
from accounts.models import ApiKey
from accounts.quotas import MOST
from vllm_portal.rest import LenientIntegerField, StrictCharField

COUNTABLE = 2**31 - 1


def limit(name: str, help_text: str, row: str) -> LenientIntegerField:
    """A limit by the name of its column in the table of limits, which the resource has as `row`; null: none."""
    most = COUNTABLE if name.startswith("requests") else MOST
    return LenientIntegerField(
        source=f"{row}.{name}", required=False, allow_null=True, min_value=0, max_value=most, help_text=help_text
    )


def paces(row: str) -> dict[str, LenientIntegerField]:
    """The limits by time and number."""
    words = {name: name.replace("_", " ").capitalize() for name in PACES}
    return {name: limit(name, f"{words[name]}; null: no such limit.", row) for name in PACES}


class KeySerializer(serializers.ModelSerializer):
    """A key without what makes it one: that is shown once, to whoever makes it."""

    username = serializers.CharField(source="user.username", read_only=True)
    name = StrictCharField(max_length=100)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(ApiKey.Scope.choices),
        required=False,
        allow_empty=False,
        max_length=len(ApiKey.Scope),
        help_text="Default: inference.",
    )
    models = serializers.ListField(
        child=StrictCharField(max_length=200),
        source="allowed_models",
        required=False,
        max_length=100,
        help_text="Names of models or engines that the key is for; empty: all that you may use.",
    )
    may_wake = serializers.BooleanField(
        required=False, help_text="Its requests wake engines that sleep. Default: true."
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="null: never.")
    prompt_token_limit = limit("prompt_token_limit", "Prompt tokens in total; null: only yours counts.", "limit")
    gen_token_limit = limit("gen_token_limit", "Generated tokens in total; null: only yours counts.", "limit")
    prompt_token_number = serializers.IntegerField(
        source="limit.prompt_token_number", read_only=True, help_text="Prompt tokens spent."
    )
    gen_token_number = serializers.IntegerField(
        source="limit.gen_token_number", read_only=True, help_text="Generated tokens spent."
    )

    class Meta:
        model = ApiKey
        fields = [
            "id", "user", "username", "name", "prefix", "last_four", "scopes", "models", "may_wake", "expires_at",
            "revoked_at", "created_at", "last_used_at", "prompt_token_limit", "prompt_token_number", "gen_token_limit",
            "gen_token_number",
        ]  # fmt: skip
        read_only_fields = ["user", "prefix", "last_four", "revoked_at", "created_at", "last_used_at"]

    def get_fields(self) -> dict[str, serializers.Field]:
        return super().get_fields() | paces("limit")

    def validate_expires_at(self, value: datetime | None) -> datetime | None:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("This time is over.")
        return value

    def rights(self) -> Rights:
        """What was asked for."""
        given: dict[str, Any] = dict(self.validated_data)
        return {**given.pop("limit", {}), **given}  # type: ignore[typeddict-item]


class NewKeySerializer(KeySerializer):
    key = serializers.CharField(read_only=True, help_text="The key. It is shown this once.")

    class Meta(KeySerializer.Meta):
        fields = ["key", *KeySerializer.Meta.fields]


class KeyQuerySerializer(serializers.Serializer):
    user = LenientIntegerField(required=False, min_value=1, max_value=2**63 - 1, help_text="Admins: whose keys.")
    revoked = serializers.BooleanField(required=False, help_text="true: revoked ones only; false: the others.")


class AllowanceSerializer(serializers.Serializer):
    limit = serializers.IntegerField(allow_null=True, help_text="null: none.")
    used = serializers.IntegerField(allow_null=True, help_text="null: cannot be told now.")
    reserved = serializers.IntegerField(help_text="Held by requests under way.")
    remaining = serializers.IntegerField(allow_null=True)


class RateSerializer(AllowanceSerializer):
    name = serializers.ChoiceField([(name, name) for name in PACES])
    resets_at = serializers.DateTimeField(allow_null=True, help_text="End of the calendar window, UTC.")


class StandingSerializer(serializers.Serializer):
    prompt_tokens = AllowanceSerializer()
    generated_tokens = AllowanceSerializer()
    resets = serializers.DateTimeField(allow_null=True, help_text="null: limits in total do not reset.")
    rates = RateSerializer(many=True, help_text="The limits by time and number that there are.")


class CallersKeySerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    shown = serializers.CharField(help_text="Its beginning and end.")
    scopes = serializers.ListField(child=serializers.CharField())
    models = serializers.ListField(child=serializers.CharField(), source="allowed_models")
    may_wake = serializers.BooleanField()
    expires_at = serializers.DateTimeField(allow_null=True)
    limits = StandingSerializer(help_text="The key's own, within the user's.")


class CallerSerializer(serializers.Serializer):
    username = serializers.CharField()
    role = serializers.CharField()
    key = CallersKeySerializer(allow_null=True, help_text="null: an access token or a browser's session.")
    limits = StandingSerializer(help_text="The user's.")
