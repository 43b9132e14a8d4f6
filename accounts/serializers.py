"""What the endpoints about people take and give. Unknown fields are ignored: existing clients send more than needed."""

from typing import Any

from rest_framework import serializers

from accounts.models import User
from accounts.quotas import MOST
from vllm_portal.rest import LenientIntegerField, StrictCharField

PASSWORD_LENGTH = 4096


def new_password(**options: Any) -> StrictCharField:
    """A password as it is given: any but an empty one."""
    style = {"input_type": "password"}
    return StrictCharField(max_length=PASSWORD_LENGTH, trim_whitespace=False, style=style, **options)


def _tokens(help_text: str) -> LenientIntegerField:
    return LenientIntegerField(
        required=False, allow_null=True, default=None, min_value=0, max_value=MOST, help_text=help_text
    )


class LoginSerializer(serializers.Serializer):
    username = StrictCharField(max_length=PASSWORD_LENGTH)
    password = new_password()


class LoggedInSerializer(serializers.Serializer):
    username = serializers.CharField()
    access_token = serializers.CharField()
    token_type = serializers.CharField(default="bearer")
    refresh_token = serializers.CharField()


class RefreshSerializer(serializers.Serializer):
    refresh_token = StrictCharField(max_length=PASSWORD_LENGTH)


class TokenLimitsSerializer(serializers.Serializer):
    prompt_token_limit = _tokens("Prompt tokens the user may spend in total.")
    gen_token_limit = _tokens("Generated tokens the user may spend in total.")


class TokenNumbersSerializer(serializers.Serializer):
    prompt_token_number = _tokens("Prompt tokens spent.")
    gen_token_number = _tokens("Generated tokens spent.")


class AddUserSerializer(TokenLimitsSerializer, TokenNumbersSerializer):
    """The password is the admin's to choose: any but an empty one. The pages ask for eight characters."""

    username = StrictCharField(max_length=150, validators=[User.username_validator])
    password = new_password()


class NamedUserSerializer(serializers.Serializer):
    username = StrictCharField(max_length=150)


class UpdateLimitSerializer(NamedUserSerializer, TokenLimitsSerializer):
    pass


class UpdateNumberSerializer(NamedUserSerializer, TokenNumbersSerializer):
    pass


class TokenInfoRequestSerializer(serializers.Serializer):
    username = StrictCharField(
        max_length=150, required=False, allow_null=True, allow_blank=True, help_text="Counts when an admin asks."
    )


class TokenInfoSerializer(serializers.Serializer):
    prompt_token_number = serializers.IntegerField(help_text="Prompt tokens spent.")
    prompt_token_limit = serializers.IntegerField()
    gen_token_number = serializers.IntegerField(help_text="Generated tokens spent.")
    gen_token_limit = serializers.IntegerField()


class MessageSerializer(serializers.Serializer):
    message = serializers.CharField()


class AddedSerializer(MessageSerializer):
    status = serializers.CharField()


class ExistenceSerializer(serializers.Serializer):
    user_exists = serializers.BooleanField()


class DetailSerializer(serializers.Serializer):
    detail = serializers.CharField()


class EngineNameSerializer(serializers.Serializer):
    engine_id = serializers.CharField(source="id")
    engine_name = serializers.CharField(source="name")
    model_name = serializers.CharField(source="model")
    state = serializers.CharField()


class ConversationNameSerializer(serializers.Serializer):
    number = serializers.IntegerField()
    name = serializers.CharField()


class PersonSerializer(serializers.ModelSerializer):
    """A user as admins see them: what they have and have spent, not what they wrote."""

    user_id = serializers.CharField(source="pk")
    disabled = serializers.SerializerMethodField()
    prompt_token_number = serializers.IntegerField(source="token_limit.prompt_token_number")
    prompt_token_limit = serializers.IntegerField(source="token_limit.prompt_token_limit")
    gen_token_number = serializers.IntegerField(source="token_limit.gen_token_number")
    gen_token_limit = serializers.IntegerField(source="token_limit.gen_token_limit")
    engines = EngineNameSerializer(many=True)
    conversations = ConversationNameSerializer(many=True)

    class Meta:
        model = User
        fields = [
            "user_id", "username", "role", "disabled", "prompt_token_number", "prompt_token_limit",
            "gen_token_number", "gen_token_limit", "engines", "conversations",
        ]  # fmt: skip

    def get_disabled(self, user: User) -> bool:
        return not user.is_active
