"""What the endpoints about conversations take and give: first those of `/db_request/`, then those of `/api/v1/`."""

from typing import Any

from rest_framework import serializers

from inference.models import Conversation, Message
from vllm_portal.rest import LenientIntegerField, StrictCharField


def _number(**options: Any) -> LenientIntegerField:
    return LenientIntegerField(min_value=-1, max_value=2**31 - 1, **options)


def _name(**options: Any) -> StrictCharField:
    return StrictCharField(max_length=200, **options)


class OnBehalfSerializer(serializers.Serializer):
    username = StrictCharField(
        max_length=150, required=False, allow_null=True, allow_blank=True, help_text="Counts when an admin asks."
    )


class AddConversationSerializer(OnBehalfSerializer):
    conversation_name = _name(required=False, allow_null=True, allow_blank=True, default="")


class NumberedSerializer(OnBehalfSerializer):
    conversation_number = _number()


class LatestOrNumberedSerializer(OnBehalfSerializer):
    conversation_number = _number(
        required=False, allow_null=True, default=None, help_text="Missing, null, -1 or 0: your latest conversation."
    )


class RenameSerializer(NumberedSerializer):
    conversation_name = _name(allow_blank=True, help_text="Empty: back to the title made from the first prompt.")


class DoneSerializer(serializers.Serializer):
    message = serializers.CharField()


class ConversationAddedSerializer(DoneSerializer):
    conversation_id = serializers.UUIDField()
    conversation_number = serializers.IntegerField()


class RenamedSerializer(serializers.Serializer):
    success = serializers.BooleanField()


class SaidSerializer(serializers.ModelSerializer):
    role = serializers.CharField(help_text="`user` or `assistant`.")
    timestamp = serializers.DateTimeField(source="created_at")

    class Meta:
        model = Message
        fields = ["role", "content", "timestamp"]


class RetrievedSerializer(serializers.ModelSerializer):
    user_id = serializers.CharField()
    conversation_number = serializers.IntegerField(source="number")
    timestamp = serializers.DateTimeField(source="created_at", help_text="When it began.")
    conversation_name = serializers.CharField(source="shown_name")
    messages = SaidSerializer(many=True)

    class Meta:
        model = Conversation
        fields = ["user_id", "conversation_number", "timestamp", "conversation_name", "conversation_id", "messages"]


class NumbersSerializer(serializers.Serializer):
    conversation_numbers = serializers.ListField(child=serializers.IntegerField())


class NumberAndNameSerializer(serializers.Serializer):
    number = serializers.IntegerField()
    name = serializers.CharField()


class NumbersAndNamesSerializer(serializers.Serializer):
    conversations = NumberAndNameSerializer(many=True)


class MessageSerializer(serializers.ModelSerializer):
    role = serializers.CharField(read_only=True, help_text="`user` or `assistant`.")

    class Meta:
        model = Message
        fields = ["role", "content", "created_at"]
        read_only_fields = fields
        ref_name = "ConversationMessage"


class ConversationSerializer(serializers.ModelSerializer):
    """One conversation without what was said. Others than its user see no title: that is made of the first prompt."""

    id = serializers.UUIDField(source="conversation_id", read_only=True)
    name = _name(required=False, allow_blank=True, default="", help_text="Empty: the title made from the first prompt.")
    message_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = Conversation
        fields = ["id", "number", "name", "created_at", "updated_at", "message_count"]
        read_only_fields = ["number", "created_at", "updated_at"]

    def to_representation(self, instance: Conversation) -> dict[str, Any]:
        shown = super().to_representation(instance)
        if instance.user_id == self.context["request"].user.pk:
            shown["name"] = instance.shown_name
        return shown


class NewTurnSerializer(serializers.Serializer):
    prompt = StrictCharField(trim_whitespace=False)
    answer = StrictCharField(trim_whitespace=False)
    keep = LenientIntegerField(
        required=False, min_value=0, help_text="So many turns stay before this one; the others go. Missing: all stay."
    )
    turns = LenientIntegerField(
        required=False, min_value=0, help_text="As many as there are for all you know; 409 where it is not so."
    )


class TurnsSerializer(serializers.Serializer):
    turns = serializers.IntegerField(help_text="As many as there are now.")


class WholeConversationSerializer(ConversationSerializer):
    messages = MessageSerializer(many=True, read_only=True)

    class Meta(ConversationSerializer.Meta):
        fields = [*ConversationSerializer.Meta.fields, "messages"]


class ListQuerySerializer(serializers.Serializer):
    user = LenientIntegerField(
        required=False, min_value=1, max_value=2**63 - 1, help_text="Admins: whose conversations; numbers and names."
    )


class ExportQuerySerializer(serializers.Serializer):
    # `as` is no name that Python allows for an attribute.
    def get_fields(self) -> dict[str, serializers.Field]:
        return {"as": serializers.ChoiceField(["json", "markdown"], default="json")}
