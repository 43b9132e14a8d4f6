"""Engines in the admin pages: what runs, whose it is, why it failed. Nothing here writes a state: actions ask."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from engines import starting, terminating
from engines.models import Engine, EngineEvent, Gpu, GpuLease
from engines.states import FINAL
from vllm_portal.errors import CallerError


class ReadOnly:
    """Rows that only the portal itself writes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EventInline(ReadOnly, admin.TabularInline):
    model = EngineEvent
    fields = ("at", "old_state", "new_state", "message")
    extra = 0


class LeaseInline(ReadOnly, admin.TabularInline):
    model = GpuLease
    fields = ("gpu", "since")
    extra = 0


@admin.register(Engine)
class EngineAdmin(ReadOnly, admin.ModelAdmin):
    """The whole page is read only; the encrypted fields are on no page."""

    list_display = ("name", "owner", "model", "state", "standing", "launcher", "shared", "created_at")
    list_filter = ("state", "launcher", "shared")
    list_select_related = ("owner",)
    search_fields = ("name", "model", "owner__username", "container_id")
    date_hierarchy = "created_at"
    actions = ("start_again", "stop")
    inlines = (EventInline, LeaseInline)
    fieldsets = (
        (None, {"fields": ("name", "owner", "shared", "state", "state_since", "detail", "deadline_at", "desired")}),
        ("Failure", {"fields": ("cause_code", "cause", "advice")}),
        (
            "Asked for",
            {
                "fields": (
                    "model", "max_model_len", "tensor_parallel_size", "seed", "tokenizer", "quantization",
                    "hf_account",
                )
            },
        ),
        ("How it runs", {"fields": ("launcher", "device", "image", "container_name", "container_id", "task",
                                    "served_max_model_len", "has_chat_template", "missed_checks",
                                    "probe_prompt_tokens", "probe_generated_tokens")}),
        ("When", {"fields": ("created_at", "ready_at", "ended_at")}),
    )  # fmt: skip

    @admin.display(description="detail or cause")
    def standing(self, engine: Engine) -> str:
        return (engine.cause or engine.detail)[:120]

    @admin.action(description="Start again: a new engine with the same options", permissions=["view"])
    def start_again(self, request: HttpRequest, queryset: QuerySet[Engine]) -> None:
        for engine in queryset.select_related("owner"):
            try:
                new = starting.start_again(engine, engine.owner or request.user)
            except CallerError as error:
                self.message_user(request, f"{engine}: {error}", messages.ERROR)
            else:
                self.message_user(request, f"{engine} is started again as {new}.")

    @admin.action(description="Stop", permissions=["view"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Engine]) -> None:
        running = [engine for engine in queryset if engine.state not in FINAL]
        for engine in running:
            terminating.request_terminate(engine, request.user)
        self.message_user(request, f"{len(running)} engines are asked to stop.")


@admin.register(Gpu)
class GpuAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("index", "name", "uuid", "memory", "present", "held_by", "seen_at")
    list_select_related = ("lease__engine",)

    @admin.display(description="memory")
    def memory(self, gpu: Gpu) -> str:
        return f"{gpu.memory_bytes / 2**30:.0f} GiB"

    @admin.display(description="held by")
    def held_by(self, gpu: Gpu) -> str:
        return gpu.lease.engine.name if hasattr(gpu, "lease") else ""


@admin.register(GpuLease)
class GpuLeaseAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("gpu", "engine", "since")
    list_select_related = ("gpu", "engine")
