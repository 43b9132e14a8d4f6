"""Engines, what happened to them, and the GPUs they hold. `engines.lifecycle` alone writes `Engine.state`."""

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone

from engines.adapters import Adapter, full_name
from engines.adapters import of as adapters_of
from engines.measured_starts import StartMeasure as StartMeasure  # a table of this app's
from engines.placement import SLICES, free_slices, slices_for
from engines.queries import EngineQuerySet
from engines.recipe_models import Recipe
from engines.start_options import StartOptions
from engines.states import GROWING, Desired, State
from vllm_portal.config import get_config


def new_engine_id() -> uuid.UUID:
    """A random id. Clients of the documented API cut `/v1/completions` off an endpoint's right end as a set of
    characters, which would eat into an id that ends in one of these."""
    while True:
        identity = uuid.uuid4()
        if identity.hex[-1] not in "1ce":
            return identity


class Engine(StartOptions):
    """One vLLM engine: one container or process, never revived. A restart is a new `generation` of the same row."""

    class Task(models.TextChoices):
        GENERATE = "generate"
        EMBED = "embed"

    id = models.UUIDField(primary_key=True, default=new_engine_id, editable=False)
    name = models.CharField(max_length=80, unique=True, help_text="Also a name of the model in requests.")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="engines",
        help_text="Without an owner (the user was deleted) the engine is stopped.",
    )  # fmt: skip
    shared = models.BooleanField(default=False, help_text="Every user may send requests to it.")
    shared_users = models.ManyToManyField(
        settings.AUTH_USER_MODEL, blank=True, related_name="+", help_text="These users may send requests to it."
    )
    shared_groups = models.ManyToManyField(
        "auth.Group", blank=True, related_name="+", help_text="The members of these may send requests to it."
    )
    hf_account = models.CharField(
        "Hugging Face account", max_length=100, blank=True, help_text="Account of the Hugging Face token."
    )

    recipe = models.ForeignKey(
        Recipe, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="engines",
        help_text="That it was started from.",
    )  # fmt: skip
    hf_token_encrypted = models.TextField(blank=True, editable=False)

    # How long it may stay: engines.terms
    lease_hours = models.FloatField(null=True, blank=True, help_text="From its place on; null: until it is stopped.")
    lease_ends_at = models.DateTimeField(null=True, blank=True, editable=False)
    idle_minutes = models.PositiveIntegerField(
        null=True, blank=True, help_text="Stopped after so long without a request; null: as the settings say."
    )
    sleep_minutes = models.PositiveIntegerField(
        null=True, blank=True, help_text="To vLLM's sleep after so long without a request; null: as the settings say."
    )
    keep_until = models.DateTimeField(null=True, blank=True, help_text="Not stopped for being idle before.")
    wakes = models.BooleanField(
        default=True, help_text="Stopped for being idle it sleeps, and a request wakes it; else it ends."
    )
    used_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="The last known request's end.")

    # How it is run
    engine_key_encrypted = models.TextField(blank=True, editable=False)
    generation = models.PositiveIntegerField(default=1)
    sleep_level = models.PositiveSmallIntegerField(
        default=0, editable=False, help_text="vLLM's, which this generation was started for; 0: it cannot sleep."
    )

    # Where it stands
    desired = models.CharField(max_length=5, choices=Desired.choices, default=Desired.RUN)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED, editable=False)
    state_since = models.DateTimeField(default=timezone.now, editable=False)
    deadline_at = models.DateTimeField(null=True, blank=True, editable=False)
    detail = models.CharField(max_length=300, blank=True, help_text="What is going on in this state.")
    log_size = models.PositiveBigIntegerField(default=0, editable=False, help_text="Bytes of log at the last look.")
    slept_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when vLLM says that it sleeps; null: it does not."
    )
    restarts = models.PositiveSmallIntegerField(
        default=0,
        editable=False,
        help_text="How often it was started afresh in its last row of deaths; ten minutes of being ready end a row.",
    )
    missed_checks = models.PositiveSmallIntegerField(default=0, editable=False)
    cause_code = models.CharField(max_length=40, blank=True)
    cause = models.TextField(blank=True)
    advice = models.TextField(blank=True)
    change = models.JSONField(
        null=True, blank=True, editable=False, help_text="Options that may cure it; {}: as it is; null: none."
    )
    download = models.JSONField(
        null=True, blank=True, editable=False, help_text="Of engines.fetching; null: the portal downloaded nothing."
    )
    phases = models.JSONField(default=list, blank=True, editable=False, help_text="Of engines.timeline.")

    # What the launcher and the engine told
    container_id = models.CharField("id of the container or process", max_length=80, blank=True, db_index=True)
    host = models.CharField(max_length=80, blank=True, editable=False)
    port = models.PositiveIntegerField(null=True, blank=True, editable=False)
    task = models.CharField(max_length=10, choices=Task.choices, default=Task.GENERATE)
    has_chat_template = models.BooleanField(default=True)
    served_max_model_len = models.PositiveIntegerField("longest request served, in tokens", null=True, blank=True)
    # Tokens of the portal's own probes: users' records + these = the engine's counters.
    probe_prompt_tokens = models.PositiveBigIntegerField(default=0, editable=False)
    probe_generated_tokens = models.PositiveBigIntegerField(default=0, editable=False)
    peak_tokens_per_s = models.FloatField(
        null=True, blank=True, editable=False, help_text="The most that it was seen to generate."
    )

    created_at = models.DateTimeField(auto_now_add=True)
    asked_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When this generation was; null: it is the first."
    )
    ready_at = models.DateTimeField(null=True, blank=True, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = EngineQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["state"])]

    def __str__(self) -> str:
        return self.name

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def gpu_slices(self) -> int:
        """Of each of its GPUs."""
        return slices_for(self.gpu_memory_utilization)

    @property
    def gpus(self) -> float:
        """How many it takes, parts of them included."""
        return self.tensor_parallel_size * self.gpu_slices / SLICES

    @property
    def is_ending(self) -> bool:
        """Not where it is only ended to be started afresh."""
        return self.state == State.STOPPING and self.desired != Desired.RUN

    @property
    def comes_back(self) -> bool:
        """It starts, or wakes, or is about to start afresh, whether anybody asks for it or not."""
        return self.desired == Desired.RUN and self.state in GROWING | {State.STOPPING}

    @property
    def adapters_by_name(self) -> list[tuple[Adapter, str]]:
        """Each with what everybody may call it in requests."""
        return [(adapter, full_name(self.model, adapter)) for adapter in adapters_of(self.adapters)]

    @property
    def public_container_id(self) -> str:
        """What clients know the engine's container by: its id, and until it has one the name it will have."""
        return self.container_id or self.container_name

    @property
    def container_name(self) -> str:
        """Derived from engine and generation, so that the Docker daemon itself refuses a second one."""
        return f"vllm-portal-{self.id.hex[:12]}-{self.generation}"


class EngineEvent(models.Model):
    """One row per change of state, never changed: history, audit and statistics."""

    engine = models.ForeignKey(Engine, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    old_state = models.CharField(max_length=10, blank=True)
    new_state = models.CharField(max_length=10)
    message = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return f"{self.old_state or 'new'} -> {self.new_state}"


class Gpu(models.Model):
    """A GPU of this machine, as its driver names it."""

    uuid = models.CharField("UUID", max_length=80, unique=True)
    index = models.PositiveSmallIntegerField(help_text="The driver's number for it, from 0.")
    name = models.CharField(max_length=100)
    memory_bytes = models.PositiveBigIntegerField()
    present = models.BooleanField(default=True, help_text="Seen at the last look.")
    seen_at = models.DateTimeField()
    # At the last look; null: it does not say.
    memory_used_bytes = models.PositiveBigIntegerField(null=True)
    utilization_percent = models.PositiveSmallIntegerField(null=True)
    temperature_c = models.SmallIntegerField("temperature (°C)", null=True)
    foreign_memory_bytes = models.PositiveBigIntegerField(
        default=0, help_text="Held by programs that are no engines, while no engine held it."
    )

    class Meta:
        ordering = ["index"]
        verbose_name = "GPU"

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"

    @property
    def is_taken(self) -> bool:
        """By programs that are no engines: one that is started here would not find its memory."""
        return self.foreign_memory_bytes > get_config().gpu_foreign_mib * 2**20

    @property
    def free_slices(self) -> int:
        """That one more engine may get."""
        return 0 if self.is_taken else free_slices(sum(lease.slices for lease in self.leases.all()))

    @property
    def coming_up(self) -> list[str]:
        """Names of engines that come up on it, or wake. Who comes up takes for its own, in vLLM 0.32, what others
        take of its memory meanwhile."""
        return [lease.engine.name for lease in self.leases.all() if lease.engine.state in GROWING]

    @property
    def told(self) -> str:
        """How it does, in a few words; "": it does not say."""
        said = []
        if self.utilization_percent is not None:
            said.append(f"{self.utilization_percent} % busy")
        if self.memory_used_bytes is not None and self.memory_bytes:
            said.append(f"{self.memory_used_bytes / 2**30:.0f} of {self.memory_bytes / 2**30:.0f} GiB")
        if self.temperature_c is not None:
            said.append(f"{self.temperature_c} °C")
        return ", ".join(said)


class GpuLease(models.Model):
    """A GPU held by an engine, or a part of it. Its `GpuSlice` rows are what keeps a part from being given twice."""

    gpu = models.ForeignKey(Gpu, on_delete=models.PROTECT, related_name="leases", verbose_name="GPU")
    engine = models.ForeignKey(Engine, on_delete=models.CASCADE, related_name="gpu_leases")
    slices = models.PositiveSmallIntegerField(default=SLICES, help_text="Twentieths of its memory.")
    since = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gpu", "engine"], name="one_lease_of_a_gpu_per_engine")]
        verbose_name = "lease of a GPU"
        verbose_name_plural = "leases of GPUs"

    def __str__(self) -> str:
        return f"{self.gpu} held by {self.engine}"

    @property
    def part(self) -> str:
        """Such as `30 %`; "": all of it."""
        return "" if self.slices == SLICES else f"{100 * self.slices // SLICES} %"

    @property
    def told(self) -> str:
        """Such as `30 % of GPU 0 (NVIDIA H200): 87 % busy`."""
        where = f"{self.part} of {self.gpu}" if self.part else str(self.gpu)
        return f"{where}: {self.gpu.told}" if self.gpu.told else where


class GpuSlice(models.Model):
    """A twentieth of a GPU's memory that is leased."""

    gpu = models.ForeignKey(Gpu, on_delete=models.PROTECT, related_name="+")
    number = models.PositiveSmallIntegerField(help_text="From 0.")
    lease = models.ForeignKey(GpuLease, on_delete=models.CASCADE, related_name="parts")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gpu", "number"], name="a_slice_is_leased_once")]

    def __str__(self) -> str:
        return f"{self.number} of {self.gpu}"


class CpuLease(models.Model):
    """A slot of the CPU held by an engine, where `cpu_slots` bounds them."""

    slot = models.PositiveSmallIntegerField(unique=True, help_text="From 0.")
    engine = models.ForeignKey(Engine, on_delete=models.CASCADE, related_name="cpu_leases")
    since = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"slot {self.slot} held by {self.engine}"


class StartKey(models.Model):
    """The `Idempotency-Key` of a start: the same key of the same user is the same engine. Kept for a day."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    body_digest = models.CharField(max_length=64, help_text="SHA-256 of what was asked for.")
    engine = models.ForeignKey(Engine, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="start_key_per_user")]

    def __str__(self) -> str:
        return f"{self.key} of {self.user}"


class Leaving(models.Model):
    """A user who is to be removed once their engines have ended. Survives whoever asked for it."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="+")
    asked_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.user} leaves"
