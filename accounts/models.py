"""People and what they may spend."""

from typing import Any

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models, transaction

from vllm_portal.config import get_config


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

    objects = PortalUserManager()

    class Meta:
        ordering = ["username"]

    @classmethod
    def from_db(cls, db: str | None, field_names: Any, values: Any) -> "User":
        user = super().from_db(db, field_names, values)
        user._loaded = {name: user.__dict__.get(name) for name in ("password", "role", "is_active")}
        return user

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the flags in step with the role, revokes tokens where a right changed, gives a new user a limit row."""
        self.is_staff = self.is_superuser = self.is_admin
        # A login that only upgrades the password's hash saves that field alone: same password, tokens stay.
        fields = kwargs.get("update_fields")
        rehash = fields is not None and set(fields) == {"password"}
        loaded = getattr(self, "_loaded", None)
        if loaded and not rehash and any(self.__dict__.get(name) != value for name, value in loaded.items()):
            self.token_version += 1
        if fields is not None and not rehash:
            kwargs["update_fields"] = {*fields, "is_staff", "is_superuser", "token_version"}
        with transaction.atomic():
            super().save(*args, **kwargs)
            TokenLimit.objects.get_or_create(user=self)
        self._loaded = {name: self.__dict__.get(name) for name in ("password", "role", "is_active")}


def default_prompt_token_limit() -> int:
    return get_config().default_prompt_token_limit


def default_gen_token_limit() -> int:
    return get_config().default_gen_token_limit


class TokenLimit(models.Model):
    """What one user may spend in total and has spent, in tokens. A table of its own, so that saving a user
    never writes back a counter that has moved on. The numbers grow only by the ledger (`inference.usage`)."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, primary_key=True, related_name="token_limit")
    prompt_token_limit = models.PositiveBigIntegerField(default=default_prompt_token_limit)
    gen_token_limit = models.PositiveBigIntegerField(default=default_gen_token_limit)
    prompt_token_number = models.PositiveBigIntegerField(default=0)
    gen_token_number = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return (
            f"prompt {self.prompt_token_number}/{self.prompt_token_limit}, "
            f"generated {self.gen_token_number}/{self.gen_token_limit}"
        )
