"""Engines, what happened to them, and the GPUs they hold. `engines.lifecycle` alone writes `Engine.state`."""

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone

from engines.states import ACTIVE, SERVING, Desired, State


def new_engine_id() -> uuid.UUID:
    """A random id. Clients of the documented API cut `/v1/completions` off an endpoint's right end as a set of
    characters, which would eat into an id that ends in one of these."""
    while True:
        identity = uuid.uuid4()
        if identity.hex[-1] not in "1ce":
            return identity


class EngineQuerySet(models.QuerySet["Engine"]):
    def active(self) -> "EngineQuerySet":
        return self.filter(state__in=ACTIVE)

    def serving(self) -> "EngineQuerySet":
        return self.filter(state__in=SERVING)

    def owned_by(self, user: "settings.AUTH_USER_MODEL") -> "EngineQuerySet":
        """Those whose life this user decides: an admin's are all."""
        return self if user.is_admin else self.filter(owner=user)

    def usable_by(self, user: "settings.AUTH_USER_MODEL") -> "EngineQuerySet":
        """Those this user may send requests to: one's own and shared ones; an admin: all."""
        return self if user.is_admin else self.filter(models.Q(owner=user) | models.Q(shared=True))


class Engine(models.Model):
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
    hf_account = models.CharField(max_length=100, blank=True, help_text="Account of the Hugging Face token.")

    # What was asked for. None or "" means: vLLM decides.
    model = models.CharField(max_length=300)
    max_model_len = models.PositiveIntegerField(null=True, blank=True)
    tensor_parallel_size = models.PositiveSmallIntegerField(default=1)
    seed = models.BigIntegerField(null=True, blank=True)
    tokenizer = models.CharField(max_length=300, blank=True)
    quantization = models.CharField(max_length=40, blank=True)
    hf_token_encrypted = models.TextField(blank=True, editable=False)

    # How it is run
    launcher = models.CharField(max_length=20)
    device = models.CharField(max_length=10)
    image = models.CharField(max_length=300, blank=True)
    engine_key_encrypted = models.TextField(blank=True, editable=False)
    generation = models.PositiveIntegerField(default=1)

    # Where it stands
    desired = models.CharField(max_length=4, choices=Desired.choices, default=Desired.RUN)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED, editable=False)
    state_since = models.DateTimeField(default=timezone.now, editable=False)
    deadline_at = models.DateTimeField(null=True, blank=True, editable=False)
    detail = models.CharField(max_length=300, blank=True, help_text="What is going on in this state.")
    log_size = models.PositiveBigIntegerField(default=0, editable=False, help_text="Bytes of log at the last look.")
    missed_checks = models.PositiveSmallIntegerField(default=0, editable=False)
    cause_code = models.CharField(max_length=40, blank=True)
    cause = models.TextField(blank=True)
    advice = models.TextField(blank=True)

    # What the launcher and the engine told
    container_id = models.CharField(max_length=80, blank=True, db_index=True)
    host = models.CharField(max_length=80, blank=True, editable=False)
    port = models.PositiveIntegerField(null=True, blank=True, editable=False)
    task = models.CharField(max_length=10, choices=Task.choices, default=Task.GENERATE)
    has_chat_template = models.BooleanField(default=True)
    served_max_model_len = models.PositiveIntegerField(null=True, blank=True)
    # Tokens of the portal's own probes: users' records + these = the engine's counters.
    probe_prompt_tokens = models.PositiveBigIntegerField(default=0, editable=False)
    probe_generated_tokens = models.PositiveBigIntegerField(default=0, editable=False)

    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True, blank=True, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = EngineQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["state"])]

    def __str__(self) -> str:
        return self.name

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

    uuid = models.CharField(max_length=80, unique=True)
    index = models.PositiveSmallIntegerField(help_text="The driver's number for it, from 0.")
    name = models.CharField(max_length=100)
    memory_bytes = models.PositiveBigIntegerField()
    present = models.BooleanField(default=True, help_text="Seen at the last look.")
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["index"]

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


class GpuLease(models.Model):
    """A GPU held by an engine. The one-to-one constraint is what keeps a GPU from being given twice."""

    gpu = models.OneToOneField(Gpu, on_delete=models.PROTECT, related_name="lease")
    engine = models.ForeignKey(Engine, on_delete=models.CASCADE, related_name="gpu_leases")
    since = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.gpu} held by {self.engine}"


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
