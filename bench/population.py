"""What is in the database of the portal under test. Runs inside of it: `manage.py shell -c`."""

import hashlib
from pathlib import Path
from typing import Any

from django.contrib.auth.hashers import make_password
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, KeyLimit, TokenLimit, User
from engines import lifecycle
from engines.states import State

# Limits of each kind, so that each is checked, and so high that none is met.
TOKENS, REQUESTS_PER_MINUTE = 10**15, 10**9


def add_people(file: Path) -> None:
    """For each key in `file`, one a line, a user with limits, and this key with limits."""
    clear = file.read_text().split()
    now = timezone.now()
    password = make_password(None)
    people = _added([User(username=f"user-{number}", password=password) for number in range(len(clear))])
    limits = {"prompt_token_limit": TOKENS, "gen_token_limit": TOKENS, "requests_per_minute": REQUESTS_PER_MINUTE}
    _added([TokenLimit(user=user, **limits) for user in people])
    made = _added([_key(user, text, now) for user, text in zip(people, clear, strict=True)])
    _added([KeyLimit(key=key, **limits) for key in made])


def add_engine(model: str, port: int) -> None:
    """READY, for every user, and behind `port` of this machine."""
    now = timezone.now()
    owner = User.objects.create_user("owner", password=None)
    asked = {"name": "bench-engine", "model": model, "launcher": "process", "device": "cpu", "shared": True}
    engine = lifecycle.request_start(owner, now, **asked)
    lifecycle.place(engine, [], now)
    for old, new in ((State.PLACED, State.STARTING), (State.STARTING, State.LOADING), (State.LOADING, State.READY)):
        lifecycle.move(engine, old, new, now, host="127.0.0.1", port=port, served_max_model_len=4096)


def _key(user: User, clear: str, now: object) -> ApiKey:
    return ApiKey(
        user=user,
        name="bench",
        digest=hashlib.sha256(clear.encode()).hexdigest(),
        prefix=clear[: keys.SHOWN],
        last_four=clear[-4:],
        scopes=[ApiKey.Scope.INFERENCE.value],
        created_at=now,
    )


def _added(rows: list[Any]) -> list[Any]:
    return type(rows[0])._default_manager.bulk_create(rows, batch_size=500)
