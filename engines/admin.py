"""Engines in the admin pages: what runs, whose it is, with whom it is shared, why it failed. Nothing here writes a
state: actions ask."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.admin import PeopleAdmin
from accounts.tables import ReadOnly, Table, counted
from engines import engine_logs, options_admin, people_admin, starting, terminating
from engines.models import Engine, Gpu, GpuLease, StartMeasure
from engines.recipe_models import Recipe
from engines.recipes_admin import RecipeAdmin
from engines.sharing_admin import SharingForm
from engines.states import FINAL
from vllm_portal.errors import CallerError

MOST_EVENTS, MOST_LINES = 200, 60
"""The latest: an engine that sleeps and wakes has many events."""


def _more(engine: Engine) -> dict[str, Any]:
    return {
        "leases": engine.gpu_leases.select_related("gpu"),
        "events": reversed(engine.events.order_by("-at", "-id")[:MOST_EVENTS]),
        "log": "\n".join(engine_logs.read(engine).splitlines()[-MOST_LINES:]),
    }


@admin.register(Engine)
class EngineAdmin(options_admin.OptionsShown, ReadOnly, Table):
    """All but whom it is shared with is read only; the encrypted fields are on no page."""

    list_display = ("name", "owner", "model", "state", "standing", "launcher", "shared", "created_at")
    list_filter = ("state", "launcher", "shared", "created_at")
    list_select_related = ("owner",)
    show_full_result_count = False
    columns = ("name", "owner__username", "model", "state", "detail", "cause", "launcher", "shared", "created_at")
    search_fields = ("name", "model", "container_id")
    person = "owner"
    actions = ("start_again", "stop")
    fieldsets = (
        (None, {"fields": ("name", "owner", "shared", "shared_users", "shared_groups", "state", "state_since", "detail",
                           "deadline_at", "desired")}),
        ("Failure", {"fields": ("cause_code", "cause", "advice")}),
        (
            "Asked for",
            {
                "fields": (
                    *options_admin.FIELDS,
                    "hf_account",
                )
            },
        ),
        ("How it runs", {"fields": ("launcher", "device", "image", "image_digest", "vllm_version", "recipe",
                                    "container_name", "container_id", "task",
                                    "served_max_model_len", "has_chat_template", "missed_checks", "restarts",
                                    "sleep_level", "slept_at", "probe_prompt_tokens", "probe_generated_tokens")}),
        ("When", {"fields": ("created_at", "ready_at", "ended_at")}),
    )  # fmt: skip

    form = SharingForm
    change_form_after_template = "admin/engine_more.html"
    autocomplete_fields = ("shared_users", "shared_groups")
    readonly_fields = tuple(
        name for _, group in fieldsets for name in group["fields"] if name not in SharingForm.Meta.fields
    )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return Table.has_change_permission(self, request, obj)

    def save_model(self, request: HttpRequest, obj: Engine, form: SharingForm, change: bool) -> None:
        form.put()

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """With what no field says: its GPUs, its time line and the end of its log."""
        engine = self.get_object(request, object_id)
        more = {} if engine is None else _more(engine)
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

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
                self.log_change(request, engine, f"started again as {new}")
                self.message_user(request, f"{engine} is started again as {new}.")

    @admin.action(description="Stop (a second time: at once)", permissions=["view"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Engine]) -> None:
        running = [engine for engine in queryset if engine.state not in FINAL]
        for engine in running:
            terminating.press(engine, request.user)
            self.log_change(request, engine, "stopped")
        self.message_user(request, f"Asked {counted(len(running), 'engine')} to stop.")


@admin.register(Gpu)
class GpuAdmin(ReadOnly, Table):
    list_display = fields = ("index", "name", "uuid", "memory", "told", "foreign", "present", "held_by", "seen_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Gpu]:
        return super().get_queryset(request).prefetch_related("leases__engine")

    @admin.display(description="memory")
    def memory(self, gpu: Gpu) -> str:
        return f"{gpu.memory_bytes / 2**30:.0f} GiB"

    @admin.display(description="now")
    def told(self, gpu: Gpu) -> str:
        return gpu.told

    @admin.display(description="held by other programs")
    def foreign(self, gpu: Gpu) -> str:
        return f"{gpu.foreign_memory_bytes / 2**30:.1f} GiB" if gpu.foreign_memory_bytes else ""

    @admin.display(description="held by")
    def held_by(self, gpu: Gpu) -> str:
        return ", ".join(f"{lease.engine.name} {lease.part}".strip() for lease in gpu.leases.all())


@admin.register(GpuLease)
class GpuLeaseAdmin(ReadOnly, Table):
    list_display = ("gpu", "engine", "slices", "since")
    list_select_related = ("gpu", "engine")


@admin.register(StartMeasure)
class StartMeasureAdmin(ReadOnly, Table):
    """What starts measured of memory. One that misleads may be deleted; the next start of that kind measures again."""

    list_display = (
        "model", "gpu_name", "tensor_parallel_size", "quantization", "weights", "cache", "concurrency", "max_model_len",
        "measured_at",
    )  # fmt: skip
    fields = (*list_display, "revision", "image", "device", "gpu_memory_utilization", "kv_cache_dtype", "flags")
    search_fields = ("model", "gpu_name", "image")
    found_by_search = False  # what was measured belongs to engines, which are found

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_admin

    @admin.display(description="weights")
    def weights(self, measure: StartMeasure) -> str:
        return _gib(measure.weights_bytes)

    @admin.display(description="KV cache")
    def cache(self, measure: StartMeasure) -> str:
        return _gib(measure.cache_bytes)


admin.site.register(Recipe, RecipeAdmin)
PeopleAdmin.actions = (*PeopleAdmin.actions, people_admin.cut_off)


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f} GiB"
