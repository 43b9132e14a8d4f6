"""Conversations, and what each request cost."""

import uuid

from django.conf import settings
from django.db import models


class Conversation(models.Model):
    """A user's conversation. `number` is 1, 2, 3 … per user and never reused; `conversation_id` is unique for all.

    `name` is the user's own; `title` is made from the first prompt and shown to the user where there is no name. Admins
    may see names, but a title is content. `updated_at` is the time of the latest turn, not of the latest renaming.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="conversations")
    number = models.PositiveIntegerField()
    conversation_id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, blank=True)
    title = models.CharField(max_length=60, blank=True, default="", editable=False)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["user", "number"]
        constraints = [models.UniqueConstraint(fields=["user", "number"], name="conversation_number_per_user")]

    def __str__(self) -> str:
        return self.name or f"Conversation {self.number}"

    @property
    def shown_name(self) -> str:
        """For its user alone."""
        return self.name or self.title


class ConversationCounter(models.Model):
    """The last number given to a user's conversation: deleting conversations gives none back."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="conversation_counter",
    )
    last_number = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"last number {self.last_number}"


class Message(models.Model):
    """One side of a turn. A turn's two messages are stored in one transaction, prompt first."""

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    role = models.CharField(max_length=10, choices=Role.choices)
    content = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.role} message"


class StoredResponse(models.Model):
    """What `/v1/responses` needs beyond the text of one of its turns, to go on from it later.

    `items` is a JSON list of what went in and what came out, as a later request sends it again. `body` is the response
    object as the client got it. Both are JSON in text columns: PostgreSQL's own JSON cannot hold all that JSON can.
    A branch has copies of the turns before it, which nobody can name: their `response_id` is None, their `body` "".
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="responses")
    response_id = models.CharField(max_length=100, null=True)  # noqa: DJ001 (None: has no id; any number of them)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="responses")
    answer = models.OneToOneField(Message, on_delete=models.CASCADE, related_name="response")
    items = models.TextField()
    body = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "response_id"], name="response_id_per_user")]

    def __str__(self) -> str:
        return self.response_id or "copy of a response"


class UsageRollup(models.Model):
    """Sums of usage records that began in one hour or day (UTC), for one user, key, engine and model.

    Written in the transaction that writes the records. Two rows for the same may come to be where a user was removed:
    readers sum."""

    class Period(models.TextChoices):
        HOUR = "hour"
        DAY = "day"

    period = models.CharField(max_length=4, choices=Period.choices)
    start = models.DateTimeField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    api_key = models.ForeignKey("accounts.ApiKey", null=True, on_delete=models.SET_NULL, related_name="+")
    engine = models.ForeignKey("engines.Engine", null=True, on_delete=models.SET_NULL, related_name="+")
    model = models.CharField(max_length=300)
    requests = models.PositiveBigIntegerField(default=0)
    completed = models.PositiveBigIntegerField(default=0, help_text="Requests with the outcome completed.")
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)
    generated_tokens = models.PositiveBigIntegerField(default=0)
    duration_ms = models.PositiveBigIntegerField(default=0, help_text="Of all these requests together.")

    class Meta:
        indexes = [
            # Holds whatever is summed up for an admin: to look up each row would take five times as long.
            models.Index(
                fields=[
                    "period", "start", "user", "api_key", "engine", "model", "requests", "prompt_tokens",
                    "cached_tokens", "generated_tokens",
                ],
                name="rollup_sums",
            ),
            models.Index(fields=["user", "period", "start"]),
            models.Index(fields=["engine", "period", "start"], name="rollup_by_engine"),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.period} from {self.start}: {self.requests} requests"


class UsageDigest(models.Model):
    """Everybody's numbers of the page /usage over so many days, as `inference.everybodys_usage` keeps them. A version
    that keeps other numbers empties the table."""

    days = models.PositiveSmallIntegerField(primary_key=True)
    as_of = models.DateTimeField()
    took_ms = models.PositiveIntegerField()
    figures = models.JSONField()

    def __str__(self) -> str:
        return f"{self.days} days, as of {self.as_of}"


class UsageRecord(models.Model):
    """One row per request that was let through to an engine, written once by the ledger and never changed."""

    class Outcome(models.TextChoices):
        COMPLETED = "completed"
        ABORTED = "aborted", "client left"
        REFUSED = "refused", "refused by the engine"
        FAILED = "failed", "engine failed"
        EXPIRED = "expired", "portal process died"

    request_id = models.CharField("id of the request", max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="usage")
    api_key = models.ForeignKey(
        "accounts.ApiKey", null=True, on_delete=models.SET_NULL, related_name="usage", verbose_name="API key"
    )
    engine = models.ForeignKey("engines.Engine", null=True, on_delete=models.SET_NULL, related_name="usage")
    model = models.CharField(max_length=300)
    path = models.CharField(max_length=60)
    streamed = models.BooleanField(default=False)
    prompt_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField(default=0, help_text="Of the prompt tokens: found in the cache.")
    generated_tokens = models.PositiveBigIntegerField()
    reserved_tokens = models.PositiveBigIntegerField(
        null=True,
        editable=False,
        help_text="Generated tokens that were held for it, where what it cost the engine is not known for certain.",
    )
    exact = models.BooleanField(help_text="Counted by the engine; else the reservation or the last count seen.")
    outcome = models.CharField(max_length=10, choices=Outcome.choices)
    started_at = models.DateTimeField(db_index=True)
    first_token_ms = models.PositiveIntegerField("first token after, in ms", null=True, blank=True)
    duration_ms = models.PositiveIntegerField("duration, in ms")

    class Meta:
        ordering = ["-started_at", "-id"]
        # One for each filter, in the order of the lists.
        indexes = [
            models.Index(fields=["user", "started_at"]),
            models.Index(fields=["engine", "started_at"]),
            models.Index(fields=["api_key", "started_at"], name="record_by_key"),
            models.Index(fields=["model", "started_at"], name="record_by_model"),
            models.Index(fields=["outcome", "started_at"], name="record_by_outcome"),
        ]

    def __str__(self) -> str:
        return f"{self.prompt_tokens}+{self.generated_tokens} tokens, {self.outcome}"

    @property
    def hour(self) -> int:
        """In which it began, since the epoch."""
        return int(self.started_at.timestamp()) // 3600


class ModelAlias(models.Model):
    """One more name in requests for models or engines, made by admins. `inference.aliases` checks it."""

    name = models.CharField(max_length=200, unique=True, help_text="What clients send as model, such as gpt-4o-mini.")
    targets = models.JSONField(help_text="Names of models or engines; requests go to whichever of them are ready.")

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "model aliases"

    def __str__(self) -> str:
        return self.name


class AuditRun(models.Model):
    """What an audit of the ledger found. `findings`: a list of {rule, about, text}, the first of `broken` many."""

    at = models.DateTimeField(db_index=True)
    broken = models.PositiveIntegerField(help_text="Findings. 0: all is as it must be.")
    findings = models.JSONField(default=list)

    class Meta:
        ordering = ["-at"]
        verbose_name = "ledger audit"

    def __str__(self) -> str:
        return f"{self.broken} broken" if self.broken else "all is as it must be"
