"""API keys: made, changed, revoked, found. The clear key exists in the answer to whoever makes it and nowhere else.

What a key may do is a `Rights`. After each change the live counters and the other processes are told, so that it counts
from the key's next request on. What a key has spent grows by the ledger alone.
"""

import hashlib
import secrets
import string
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypedDict

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts import quotas
from accounts.errors import KeyRevoked, MoreThanOwn, NotAuthenticated
from accounts.models import ApiKey, KeyLimit, Pace, User
from accounts.scopes import covered
from vllm_portal import changes

PREFIX = "sk-"
LENGTH = 48
ALPHABET = string.ascii_letters + string.digits
SHOWN = len(PREFIX) + 4
TOUCHED_EVERY = timedelta(minutes=1)

PACES = tuple(field.name for field in Pace._meta.fields)
TOTALS = ("prompt_token_limit", "gen_token_limit")
LIMITS = (*TOTALS, *PACES)


class Rights(TypedDict, total=False):
    """What a key may do; what is not in it stays as it is, or for a new key is as said here."""

    name: str
    scopes: list[str]
    """Default: inference."""
    allowed_models: list[str]
    """Names of models or engines; default: none, which means all."""
    may_wake: bool
    """Engines that sleep; default: yes."""
    expires_at: datetime | None
    """Default: never."""
    prompt_token_limit: int | None
    """0 to quotas.MOST, as all limits; default: None, which means no limit but the user's."""
    gen_token_limit: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None
    requests_at_once: int | None


def make(user: User, rights: Rights, by: ApiKey | None = None) -> tuple[ApiKey, str]:
    """(a new key, the clear key). `rights` has a name. `by`: the key that the maker came with; what `rights` leaves
    out is then as with that key. Raises MoreThanOwn."""
    _check(rights, by)
    chosen = {**_defaults(by), **rights}
    clear = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    with transaction.atomic():
        key = ApiKey.objects.create(
            user=user,
            name=chosen["name"],
            digest=_digest(clear),
            prefix=clear[:SHOWN],
            last_four=clear[-4:],
            scopes=_ordered(chosen["scopes"]),
            allowed_models=list(chosen["allowed_models"]),
            may_wake=chosen["may_wake"],
            expires_at=chosen["expires_at"],
            created_at=timezone.now(),
        )
        KeyLimit.objects.create(key=key, **{name: chosen[name] for name in LIMITS})
    return key, clear


def change(key: ApiKey, rights: Rights, by: ApiKey | None = None) -> ApiKey:
    """The key as it is now. `by`: the key that the caller came with. Raises KeyRevoked, MoreThanOwn."""
    _check(rights, by)
    limits = {name: value for name, value in rights.items() if name in LIMITS}
    columns: dict[str, Any] = {name: value for name, value in rights.items() if name not in LIMITS}
    if "scopes" in columns:
        columns["scopes"] = _ordered(columns["scopes"])
    with transaction.atomic():
        living = ApiKey.objects.filter(pk=key.pk, revoked_at=None)
        if not living.update(**columns, version=F("version") + 1):
            raise KeyRevoked
        if limits:
            KeyLimit.objects.filter(key_id=key.pk).update(**limits, updated_at=timezone.now())
        paced = bool(limits.keys() & set(PACES))
        _tell_after_commit(partial(quotas.drop, quotas.of_key(key.pk)) if paced else partial(quotas.push_key, key.pk))
    return ApiKey.objects.select_related("user", "limit").get(pk=key.pk)


def revoke(key: ApiKey) -> None:
    """For good. One that is revoked stays so, since when it was."""
    with transaction.atomic():
        living = ApiKey.objects.filter(pk=key.pk, revoked_at=None)
        if living.update(revoked_at=timezone.now(), version=F("version") + 1):
            _tell_after_commit(partial(quotas.push_key, key.pk))


def key_of(token: str) -> ApiKey:
    """The key, with its user, of a clear key that counts now. One query. Raises NotAuthenticated."""
    key = ApiKey.objects.select_related("user").filter(digest=_digest(token)).first()
    if key is None:
        raise NotAuthenticated("This API key is not known here.")
    if key.revoked_at is not None:
        raise NotAuthenticated("This API key was revoked.")
    if key.expires_at is not None and key.expires_at <= timezone.now():
        raise NotAuthenticated("This API key has expired.")
    if not key.user.is_active:
        raise NotAuthenticated("This API key belongs to a user who is disabled.")
    return key


def touch(key: ApiKey, now: datetime) -> None:
    """Notes that the key is in use; writes at most once a minute, also from many processes."""
    since = now - TOUCHED_EVERY
    if key.last_used_at is not None and key.last_used_at > since:
        return
    due = Q(last_used_at=None) | Q(last_used_at__lte=since)
    ApiKey.objects.filter(due, pk=key.pk).update(last_used_at=now)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _defaults(by: ApiKey | None) -> Rights:
    """What a new key may do where its maker does not say."""
    nothing: Any = dict.fromkeys(LIMITS)
    if by is None:
        scopes = [ApiKey.Scope.INFERENCE]
        return {"scopes": scopes, "allowed_models": [], "may_wake": True, "expires_at": None, **nothing}
    limits: Any = {name: getattr(by.limit, name) for name in LIMITS}
    own: Any = {name: getattr(by, name) for name in ("scopes", "allowed_models", "may_wake", "expires_at")}
    return {**own, **limits}


def _ordered(scopes: list[str]) -> list[str]:
    """Each once, in one order."""
    return [scope.value for scope in ApiKey.Scope if scope in scopes]


def _check(rights: Rights, by: ApiKey | None) -> None:
    """Raises MoreThanOwn, naming the first right that goes beyond those of the key `by`."""
    if unknown := rights.keys() - Rights.__annotations__.keys():
        raise TypeError(f"not among a key's rights: {unknown}")  # or a misspelt one would leave the key without it
    if by is None:
        return
    if "scopes" in rights and not set(rights["scopes"]) <= covered(by.scopes):
        raise MoreThanOwn("scopes")
    if "allowed_models" in rights and by.allowed_models:
        models = set(rights["allowed_models"])
        if not models or not models <= set(by.allowed_models):
            raise MoreThanOwn("models")
    if rights.get("may_wake") and not by.may_wake:
        raise MoreThanOwn("may_wake")
    for name, own in (("expires_at", by.expires_at), *((name, getattr(by.limit, name)) for name in LIMITS)):
        if name in rights and own is not None:
            wanted: Any = rights[name]  # type: ignore[literal-required]
            if wanted is None or wanted > own:
                raise MoreThanOwn(name)


def _tell_after_commit(push: Callable[[], None]) -> None:
    transaction.on_commit(push)
    transaction.on_commit(partial(changes.announce, "users"))
