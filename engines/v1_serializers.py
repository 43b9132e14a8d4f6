"""What `/api/v1/engines` gives, and how its list is asked for."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.utils import timezone
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from engines import gauges, queueing, recipe_differences, sharing, starts, terms
from engines.downloads import told as downloads
from engines.models import Engine
from engines.order_serializers import NAMES_OR_NULL
from engines.serializers import (
    EventSerializer,
    endpoint_of,
)
from engines.states import State


class StepSerializer(serializers.Serializer):
    """A phase of a start."""

    phase = serializers.CharField(
        help_text="queue, pull, start, boot, configure, core, download, load, compile, kv_cache, graphs, listen, ready."
    )
    started_at = serializers.DateTimeField()
    duration_s = serializers.FloatField(allow_null=True, help_text="null: it goes on.")
    detail = serializers.CharField()


class DownloadSerializer(serializers.Serializer):
    """How far the download of an engine's model is, or how it was. Engines of one model share it, and what was there
    before counts."""

    bytes_done = serializers.IntegerField()
    bytes_total = serializers.IntegerField(help_text="0: not known yet.")
    percent = serializers.IntegerField(allow_null=True)
    bytes_per_s = serializers.FloatField(help_text="Over the last ten seconds; when it is over, over all of it.")
    eta_s = serializers.FloatField(allow_null=True, help_text="Seconds until it is there; null: not known.")
    trouble = serializers.CharField(help_text="Why it does not go on now; empty: it does.")


class GaugesSerializer(serializers.Serializer):
    """How busy an engine was at the last look, a few seconds ago. Rates are null at the first look."""

    running = serializers.IntegerField(help_text="Requests that it works on.")
    waiting = serializers.IntegerField(help_text="Requests in its own line.")
    kv_cache_use = serializers.FloatField(allow_null=True, help_text="0 to 1.")
    prompt_tokens_per_s = serializers.FloatField(allow_null=True)
    generated_tokens_per_s = serializers.FloatField(allow_null=True)


class QueueSerializer(serializers.Serializer):
    """Where an engine stands that waits for GPUs, or for slots of the CPU; `detail` says what it waits for."""

    position = serializers.IntegerField(help_text="1: it is next.")
    expected_at = serializers.DateTimeField(
        allow_null=True, help_text="By others' leases and what comes up; null: nobody knows."
    )


class EngineResourceSerializer(serializers.ModelSerializer):
    """An engine in any state. Needs `request` in its context, for the URL."""

    owner = serializers.CharField(source="owner.username", default="", help_text="Name of the user; empty: removed.")
    container_id = serializers.CharField(source="public_container_id")
    max_model_len = serializers.SerializerMethodField(help_text="As served, else as asked for; null: not known yet.")
    timeline = serializers.SerializerMethodField()
    eta_s = serializers.SerializerMethodField(
        help_text="Seconds until it is ready, from earlier starts; null: unknown."
    )
    download = serializers.SerializerMethodField(help_text="null: the portal downloaded nothing for it.")
    queue = serializers.SerializerMethodField(help_text="null: it waits for no GPU and no slot.")
    idle_since = serializers.SerializerMethodField(help_text="Its last request's end; null: not READY nor SLEEPING.")
    sleep_at = serializers.SerializerMethodField(
        help_text="When it is put to vLLM's sleep if nobody asks it; null: never, or it sleeps."
    )
    idle_stop_at = serializers.SerializerMethodField(help_text="When it is stopped if nobody asks it; null: never.")
    live = serializers.SerializerMethodField(help_text="How busy it is; null: not ready, or it has not told lately.")
    shared_users = serializers.SerializerMethodField(help_text="null: not yours to know.")
    shared_groups = serializers.SerializerMethodField(help_text="null: not yours to know.")
    recipe = serializers.SerializerMethodField(help_text="Name of the one that it was started from; null: none.")
    warnings = serializers.SerializerMethodField(help_text="How it differs from that recipe.")
    endpoint = serializers.SerializerMethodField(help_text="For any OpenAI client, with the portal's own key.")

    class Meta:
        model = Engine
        fields = [
            "id", "name", "model", "revision", "state", "state_since", "detail", "cause_code", "cause", "advice",
            "change", "owner", "shared", "shared_users", "shared_groups", "endpoint", "task", "max_model_len",
            "tensor_parallel_size", "seed", "tokenizer", "quantization", "gpu_memory_utilization", "adapters",
            "launcher", "device", "image", "container_id", "created_at", "ready_at", "ended_at", "timeline", "eta_s",
            "download", "live", "lease_ends_at", "idle_minutes", "sleep_minutes", "sleep_level", "keep_until", "wakes",
            "idle_since", "sleep_at", "idle_stop_at", "queue", "restarts", "image_digest", "vllm_version", "recipe",
            "warnings",
        ]  # fmt: skip

    def get_max_model_len(self, engine: Engine) -> int | None:
        return engine.served_max_model_len or engine.max_model_len

    def get_idle_since(self, engine: Engine) -> datetime | None:
        return terms.idle_since(engine)

    def get_sleep_at(self, engine: Engine) -> datetime | None:
        return terms.sleep_at(engine)

    def get_idle_stop_at(self, engine: Engine) -> datetime | None:
        return terms.idle_stop_at(engine)

    def get_endpoint(self, engine: Engine) -> str:
        return endpoint_of(engine, self.context["request"]).removesuffix("/completions")

    @extend_schema_field(NAMES_OR_NULL)
    def get_shared_users(self, engine: Engine) -> list[str] | None:
        return self._told(engine, "shared_users")

    @extend_schema_field(NAMES_OR_NULL)
    def get_shared_groups(self, engine: Engine) -> list[str] | None:
        return self._told(engine, "shared_groups")

    def _told(self, engine: Engine, name: str) -> list[str] | None:
        """To who may change it."""
        return sharing.names(engine)[name] if self._decides(engine) else None

    def get_recipe(self, engine: Engine) -> str | None:
        return engine.recipe.name if engine.recipe and self._decides(engine) else None

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_warnings(self, engine: Engine) -> list[str]:
        today = self.context.setdefault("today", recipe_differences.Today())
        return recipe_differences.of(engine, today) if self._decides(engine) else []

    def _decides(self, engine: Engine) -> bool:
        """Over its life: its owner, or an admin. What a recipe says others need not know."""
        user = self.context["request"].user
        return user.is_admin or user.pk == engine.owner_id

    @extend_schema_field(StepSerializer(many=True))
    def get_timeline(self, engine: Engine) -> Any:
        return StepSerializer(starts.timeline(engine), many=True).data

    @extend_schema_field(DownloadSerializer(allow_null=True))
    def get_download(self, engine: Engine) -> Any:
        seen = downloads.of(engine.download)
        return None if seen is None else DownloadSerializer(seen).data

    @extend_schema_field(GaugesSerializer(allow_null=True))
    def get_live(self, engine: Engine) -> Any:
        told = self._of_all("gauges", gauges.of).get(engine.pk)
        return None if told is None else GaugesSerializer(told).data

    @extend_schema_field(QueueSerializer(allow_null=True))
    def get_queue(self, engine: Engine) -> Any:
        place = self._of_all("queue", lambda engines: queueing.of(engines, timezone.now())).get(engine.pk)
        return None if place is None else QueueSerializer(place).data

    def _of_all(self, name: str, read: Callable[[list[Engine]], dict[uuid.UUID, Any]]) -> dict[uuid.UUID, Any]:
        """What is read of all engines that are shown at once."""
        if name not in self.context:
            self.context[name] = read([self.instance] if self.parent is None else list(self.parent.instance))
        return self.context[name]

    def get_eta_s(self, engine: Engine) -> float | None:
        return self._of_all("etas_s", lambda engines: starts.etas_s(engines, timezone.now())).get(engine.pk)


class EngineEventSerializer(EventSerializer):
    pass


class EngineFilter(filters.FilterSet):
    state = filters.MultipleChoiceFilter(choices=State.choices)
    model = filters.CharFilter()
    owner = filters.CharFilter(field_name="owner__username", help_text="For admins: name of a user.")

    class Meta:
        model = Engine
        fields: list[str] = []


class StopQuerySerializer(serializers.Serializer):
    now = serializers.BooleanField(
        required=False, default=False, help_text="What it answers is broken off; also of one that is ending already."
    )


class LogQuerySerializer(serializers.Serializer):
    tail = serializers.IntegerField(required=False, min_value=1, max_value=100_000, help_text="Only the last lines.")
    search = serializers.CharField(
        required=False, max_length=200, trim_whitespace=False, help_text="Only lines with this text, in any case."
    )
    download = serializers.BooleanField(required=False, default=False, help_text="As a file.")


def validated(serializer: type[serializers.Serializer], data: Any) -> dict[str, Any]:
    """Raises ValidationError that names the field."""
    form = serializer(data=data)
    form.is_valid(raise_exception=True)
    return form.validated_data
