"""People and what they may spend."""

import uuid
from functools import partial
from typing import Any

from django.contrib.auth.models import AbstractUser, UserManager
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction

from vllm_portal import changes
from vllm_portal.config import get_config

RIGHTS = ("password", "role", "is_active")
REMEMBERED = ("username", "weight", *RIGHTS)
"""What the data plane remembers of a user: it is told when one of these changes."""
LEAST_WEIGHT, MOST_WEIGHT = 0.1, 100.0


class Role(models.TextChoices):
    ADMIN = "Admin"
    USER = "User"


class PortalUserManager(UserManager):
    def create_superuser(self, username: str, email: str | None = None, password: str | None = None, **extra: Any):
        """`manage.py createsuperuser` makes an Admin: here the role is what gives rights."""
        return self.create_user(username, email, password, **{**extra, "role": Role.ADMIN})


class User(AbstractUser):
    """A person. `role` is what gives rights; Django's staff and superuser flags follow it.

    `token_version` is part of every access token. It goes up when the password, the role or `is_active` changes,
    and with it every token issued before stops counting.
    """

    role = models.CharField(max_length=8, choices=Role.choices, default=Role.USER)
    token_version = models.PositiveIntegerField(default=1, editable=False)
    weight = models.FloatField(
        default=1.0,
        validators=[MinValueValidator(LEAST_WEIGHT), MaxValueValidator(MOST_WEIGHT)],
        help_text="Share of an engine that is full: with 3 three times the tokens of a user with 1.",
    )

    objects = PortalUserManager()

    class Meta:
        ordering = ["username"]
        constraints = [
            # The data plane divides by it.
            models.CheckConstraint(
                condition=models.Q(weight__gte=LEAST_WEIGHT, weight__lte=MOST_WEIGHT), name="weight_within_bounds"
            )
        ]

    @classmethod
    def from_db(cls, db: str | None, field_names: Any, values: Any) -> "User":
        user = super().from_db(db, field_names, values)
        user._remember()
        return user

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        self._remember()

    def _remember(self) -> None:
        """Keeps what the row says, so that `save` sees what changed. A deferred field is not compared."""
        self._loaded = {name: self.__dict__[name] for name in REMEMBERED if name in self.__dict__}

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the flags in step with the role, revokes tokens where a right changed, gives a new user a limit row.

        `token_version` is only ever counted up, in the database: whoever saves an older copy of a user brings no
        revoked token back. After the commit the live counters and the other processes are told.
        """
        self.is_staff = self.is_superuser = self.is_admin
        fields = kwargs.get("update_fields")
        # Django's login saves the same password with a newer hash, and says so by having forgotten the clear one.
        rehash = fields is not None and set(fields) == {"password"} and self._password is None
        changed = {name for name, value in getattr(self, "_loaded", {}).items() if self.__dict__.get(name) != value}
        if fields is not None:
            changed &= set(fields)
        revoke = bool(changed & set(RIGHTS)) and not rehash
        with transaction.atomic():
            super().save(*args, **self._narrowed(kwargs, revoke))
            if revoke:
                User.objects.filter(pk=self.pk).update(token_version=models.F("token_version") + 1)
                self.token_version = User.objects.values_list("token_version", flat=True).get(pk=self.pk)
            TokenLimit.objects.get_or_create(user=self)
        self._remember()
        if revoke:
            self._tell_standing()
        if changed and not rehash:
            transaction.on_commit(partial(changes.announce, "users"))

    def _narrowed(self, kwargs: dict[str, Any], revoke: bool) -> dict[str, Any]:
        """save's arguments, so that no row that exists gets its `token_version` from a copy of it."""
        fields = kwargs.get("update_fields")
        if fields is None and not self._state.adding and not kwargs.get("force_insert"):
            fields = {field.name for field in self._meta.concrete_fields if not field.primary_key}
            fields -= {"token_version"} | self.get_deferred_fields()
        elif fields is not None and "role" in fields:
            fields = {*fields, "is_staff", "is_superuser"}
        return kwargs if fields is None else {**kwargs, "update_fields": fields}

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            self._tell_standing()  # now: afterwards it has no key any more
            transaction.on_commit(partial(changes.announce, "users"))
            return super().delete(*args, **kwargs)

    def _tell_standing(self) -> None:
        from accounts import quotas  # it reads this module's rows

        transaction.on_commit(partial(quotas.push_standing, self.pk))


def default_prompt_token_limit() -> int:
    return get_config().default_prompt_token_limit


def default_gen_token_limit() -> int:
    return get_config().default_gen_token_limit


def default_requests_per_minute() -> int | None:
    return get_config().default_requests_per_minute


class Pace(models.Model):
    """Limits by time and number, in calendar windows of UTC. None: no such limit."""

    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    tokens_per_day = models.PositiveBigIntegerField(null=True, blank=True)
    tokens_per_month = models.PositiveBigIntegerField(null=True, blank=True)
    requests_at_once = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        abstract = True


class TokenLimit(Pace):
    """What one user may spend in total and has spent, in tokens. A table of its own, so that saving a user
    never writes back a counter that has moved on. The numbers grow only by the ledger (`inference.usage`); what else
    changes them (an admin, the service before) is summed in `…_corrected`: number = usage records + corrected."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, primary_key=True, related_name="token_limit")
    prompt_token_limit = models.PositiveBigIntegerField(default=default_prompt_token_limit)
    gen_token_limit = models.PositiveBigIntegerField(default=default_gen_token_limit)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True, default=default_requests_per_minute)
    prompt_token_number = models.PositiveBigIntegerField(default=0)
    gen_token_number = models.PositiveBigIntegerField(default=0)
    prompt_tokens_corrected = models.BigIntegerField(default=0, editable=False)
    gen_tokens_corrected = models.BigIntegerField(default=0, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return (
            f"prompt {self.prompt_token_number}/{self.prompt_token_limit}, "
            f"generated {self.gen_token_number}/{self.gen_token_limit}"
        )


class ApiKey(models.Model):
    """A key that programs use instead of a password: `sk-…`, shown once, kept as its SHA-256. It counts while it is
    not revoked, not past `expires_at`, and its user is active.

    `version` is compared with each request's admission, as the user's `token_version` is: it goes up when what the key
    may do changes, and with it every copy that a process holds stops counting.
    """

    class Scope(models.TextChoices):
        INFERENCE = "inference", "call engines"
        MANAGEMENT = "management", "start, stop and change things"
        READ = "read-only", "look at things"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(max_length=12, editable=False)
    last_four = models.CharField(max_length=4, editable=False)
    scopes = models.JSONField(help_text="List of inference, management, read-only.")
    allowed_models = models.JSONField(default=list, blank=True, help_text="Names of models or engines; empty: all.")
    may_wake = models.BooleanField(
        "may wake engines", default=True, help_text="Its requests wake engines that sleep; else they are refused."
    )
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last_four})"

    @property
    def said_scopes(self) -> list[str]:
        """In the words of the form that gave them."""
        return [str(ApiKey.Scope(scope).label) for scope in self.scopes]


class KeyLimit(Pace):
    """What one key may spend and has spent, in tokens, within its user's limits. None: no limit of its own. Apart from
    the key for the reason that TokenLimit is apart from the user."""

    key = models.OneToOneField(ApiKey, on_delete=models.CASCADE, primary_key=True, related_name="limit")
    prompt_token_limit = models.PositiveBigIntegerField(null=True, blank=True)
    gen_token_limit = models.PositiveBigIntegerField(null=True, blank=True)
    prompt_token_number = models.PositiveBigIntegerField(default=0)
    gen_token_number = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField(null=True, editable=False, help_text="When a limit was changed last.")

    def __str__(self) -> str:
        return f"prompt {self.prompt_token_number}, generated {self.gen_token_number}"


class LoginSession(models.Model):
    """One log-in at `/token` and all that was refreshed from it. Its tokens carry its id; they count while the row is
    there and has not ended. Of its refresh tokens only the last one given counts, `refresh_id`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="login_sessions")
    refresh_id = models.CharField(max_length=64)
    renewed_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True, db_index=True)

    def __str__(self) -> str:
        return f"{self.user_id} until {self.expires_at}"


class GroupPriority(models.Model):
    """How soon the engines of a group's members get their GPUs. A user has the highest of their groups'; 0 without."""

    group = models.OneToOneField("auth.Group", on_delete=models.CASCADE, primary_key=True, related_name="priority")
    value = models.SmallIntegerField(
        default=0, help_text="Higher comes first, whoever has waited longer; 0: everybody."
    )

    def __str__(self) -> str:
        return str(self.value)
