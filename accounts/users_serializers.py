"""What `/api/v1/users` takes and gives."""

from typing import Any

from rest_framework import serializers

from accounts.keys_serializers import paces
from accounts.models import LEAST_WEIGHT, MOST_WEIGHT, Role, User
from accounts.quotas import MOST
from accounts.serializers import new_password
from vllm_portal.rest import LenientFloatField, LenientIntegerField, StrictCharField


def _total(name: str, help_text: str) -> LenientIntegerField:
    return LenientIntegerField(
        source=f"token_limit.{name}", required=False, min_value=0, max_value=MOST, help_text=help_text
    )


class UserSerializer(serializers.ModelSerializer):
    """A user, what they may spend and what they have spent."""

    role = serializers.ChoiceField(Role.choices, required=False)
    is_active = serializers.BooleanField(required=False, help_text="false: no login, and no token or key counts.")
    password = new_password(write_only=True, required=False)
    weight = LenientFloatField(
        required=False,
        min_value=LEAST_WEIGHT,
        max_value=MOST_WEIGHT,
        help_text="Share of an engine that is full: with 3 three times the tokens of a user with 1.",
    )
    prompt_token_limit = _total("prompt_token_limit", "Prompt tokens in total.")
    gen_token_limit = _total("gen_token_limit", "Generated tokens in total.")
    prompt_token_number = serializers.IntegerField(
        source="token_limit.prompt_token_number", read_only=True, help_text="Prompt tokens spent."
    )
    gen_token_number = serializers.IntegerField(
        source="token_limit.gen_token_number", read_only=True, help_text="Generated tokens spent."
    )

    class Meta:
        model = User
        fields = [
            "id", "username", "role", "is_active", "date_joined", "password", "weight", "prompt_token_limit",
            "prompt_token_number", "gen_token_limit", "gen_token_number",
        ]  # fmt: skip
        read_only_fields = ["username", "date_joined"]

    def get_fields(self) -> dict[str, serializers.Field]:
        return super().get_fields() | paces("token_limit")

    def limits(self) -> dict[str, Any]:
        """The limits that were given, by the names of their columns."""
        return self.validated_data.get("token_limit", {})


class NewUserSerializer(UserSerializer):
    """The password is the admin's to choose: any but an empty one."""

    username = StrictCharField(max_length=150, validators=[User.username_validator])
    password = new_password(write_only=True)

    class Meta(UserSerializer.Meta):
        read_only_fields = ["date_joined"]


class UserQuerySerializer(serializers.Serializer):
    username = StrictCharField(max_length=150, required=False)
    role = serializers.ChoiceField(Role.choices, required=False)
    is_active = serializers.BooleanField(required=False)
