"""What is in the database: people who come back now and then and ask several times, engines that come and go."""

import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import Count, Model, Q, Sum
from django.db.models.functions import TruncDay, TruncHour
from django.utils import timezone

from accounts.models import ApiKey, KeyLimit, TokenLimit, User
from engines.models import Engine, EngineEvent, Gpu, GpuLease
from engines.states import State
from inference import batches, everybodys_usage, tasks
from inference.models import AuditRun, Conversation, ConversationCounter, Message, UsageRecord, UsageRollup

ADMIN, STUDENT = "root", "user-0"
SEED = 6
DAYS = 365
A_SITTING = 10  # requests, one after the other; half of them are longer or shorter
MODELS = 100
BATCH = 20_000


class Sizes(NamedTuple):
    users: int
    engines: int
    records: int


def fill(sizes: Sizes, say: Callable[[str], None]) -> None:
    """Nothing where it was done before: a database that is kept stays as it is."""
    if User.objects.filter(username=ADMIN).exists():
        return
    source, now = random.Random(SEED), timezone.now().replace(microsecond=0)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("people", lambda: _people(sizes.users, now)),
        ("engines", lambda: _engines(sizes, source, now)),
        ("records", lambda: _records(sizes.records, source, now)),
        ("sums", _sums),
        ("conversations, changes, audits", lambda: _rest(source, now)),
    ]
    for name, step in steps:
        begun = timezone.now()
        step()
        say(f"{name}: {(timezone.now() - begun).total_seconds():.0f} s")
    User.objects.create_superuser(ADMIN)  # last: it says that all is there


def settle() -> None:
    """What time does to a database by itself: it knows what is in it, and everybody's numbers are summed up."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    tasks.refresh_statistics()
    everybodys_usage.keep_up(timezone.now())


def described() -> str:
    tables = (User, ApiKey, Engine, EngineEvent, UsageRecord, UsageRollup, Conversation, Message, LogEntry)
    counts = (f"{model._default_manager.count():,} {model._meta.verbose_name_plural}" for model in tables)
    return f"{connection.vendor}: {', '.join(counts)}"


def _people(number: int, now: datetime) -> None:
    password = make_password(None)
    people = User.objects.bulk_create((User(username=f"user-{n}", password=password) for n in range(number)), 500)
    ApiKey.objects.bulk_create(
        (
            ApiKey(user=user, name=f"key of {user}", digest=f"{user.pk:064}", prefix="sk-abcdefgh", last_four="wxyz",
                   scopes=["inference"], created_at=now)
            for user in people
        ),
        500,
    )  # fmt: skip
    KeyLimit.objects.bulk_create((KeyLimit(key=key, tokens_per_day=10**6) for key in ApiKey.objects.all()), 500)
    group = Group.objects.create(name="students")
    group.user_set.add(*people[: number // 2])


def _engines(sizes: Sizes, source: random.Random, now: datetime) -> None:
    """A third of those that live is shared; the student has one in each state."""
    owners = list(User.objects.order_by("pk"))
    living = [*State][:-2]
    made = []
    for n in range(sizes.engines * 11):
        ended, own = n >= sizes.engines, n % sizes.engines < len(living)
        state = source.choice([State.STOPPED, State.FAILED]) if ended else living[n % len(living)]
        if n == sizes.engines:
            state = State.FAILED
        created = now - timedelta(minutes=n * DAYS * 1440 / (sizes.engines * 11))
        made.append(
            Engine(
                name=f"engine-{n}", owner=owners[0] if own else source.choice(owners), model=f"acme/model-{n % MODELS}",
                launcher="simulator", device="cuda", state=state, shared=n % 3 == 0, state_since=created,
                detail="waiting for GPUs" if state == State.QUEUED else "", ready_at=created + timedelta(minutes=3),
                ended_at=created + timedelta(hours=9) if ended else None, served_max_model_len=4096,
                cause="It does not fit." if state == State.FAILED else "",
            )
        )  # fmt: skip
        made[-1].wanted_created_at = created
    Engine.objects.bulk_create(made, 500)
    for engine in made:
        engine.created_at = engine.wanted_created_at
    Engine.objects.bulk_update(made, ["created_at"], 500)
    EngineEvent.objects.bulk_create(
        (
            EngineEvent(engine=engine, at=engine.created_at + timedelta(minutes=at), old_state=old, new_state=new)
            for engine in made
            for at, old, new in (
                (0, "", "QUEUED"), (1, "QUEUED", "PLACED"), (2, "PLACED", "STARTING"), (2, "STARTING", "LOADING"),
                (3, "LOADING", "READY"), *([(500, "READY", "STOPPED")] if engine.ended_at else []),
            )
        ),
        500,
    )  # fmt: skip
    gpus = Gpu.objects.bulk_create(
        Gpu(uuid=f"GPU-{n}", index=n, name="H100", memory_bytes=80 * 2**30, seen_at=now) for n in range(160)
    )
    ready = [engine for engine in made if engine.state == State.READY]
    GpuLease.objects.bulk_create(GpuLease(gpu=gpu, engine=engine) for gpu, engine in zip(gpus, ready, strict=False))


def _records(number: int, source: random.Random, now: datetime) -> None:
    fields = (
        "request_id", "user", "api_key", "engine", "model", "path", "streamed", "prompt_tokens", "cached_tokens",
        "generated_tokens", "exact", "outcome", "started_at", "first_token_ms", "duration_ms",
    )  # fmt: skip
    rows = islice(_asked(source, now), number)
    while batch := list(islice(rows, BATCH)):
        _write(UsageRecord, fields, batch)


def _asked(source: random.Random, now: datetime) -> Iterator[tuple[Any, ...]]:
    """Sittings: somebody asks an engine several times within an hour or two, with their key or without. A few people do
    much of it."""
    keys = dict(ApiKey.objects.values_list("user_id", "pk"))
    people = list(keys)
    engines = [
        (batches.prepared(UsageRecord, "engine", pk), model) for pk, model in Engine.objects.values_list("pk", "model")
    ]
    outcomes = ["completed"] * 96 + ["aborted"] * 2 + ["failed", "refused"]
    number = 0
    while True:
        user = people[int(len(people) * source.random() ** 2)]
        key = keys[user] if source.random() < 0.6 else None
        engine, model = source.choice(engines)
        at = now - timedelta(seconds=source.random() * DAYS * 86400)
        for _ in range(1 + int(source.expovariate(1 / (A_SITTING - 1)))):
            at += timedelta(seconds=source.expovariate(1 / 300))
            number += 1
            prompt, cached, generated = source.randrange(5, 2000), source.randrange(5), source.randrange(1, 800)
            yield (
                f"r{number}", user, key, engine, model, "/v1/chat/completions", True, prompt, cached, generated, True,
                source.choice(outcomes), _stored(min(at, now)), 80, 2000,
            )  # fmt: skip


def _stored(at: datetime) -> object:
    return at if connection.vendor == "postgresql" else at.replace(tzinfo=None).isoformat(" ")


def _sums() -> None:
    of = ("user_id", "api_key_id", "engine_id", "model")
    sums = {
        "requests": Count("pk"), "completed": Count("pk", filter=Q(outcome="completed")),
        **{name: Sum(name) for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "duration_ms")},
    }  # fmt: skip
    for period, begin in (("hour", TruncHour), ("day", TruncDay)):
        grouped = UsageRecord.objects.order_by().annotate(start=begin("started_at", tzinfo=UTC)).values("start", *of)
        found = grouped.annotate(**{f"sum_{name}": total for name, total in sums.items()})
        rows = found.values_list("start", *of, *(f"sum_{name}" for name in sums)).iterator(BATCH)
        prepared = (
            (period, _stored(start), user, key, engine and batches.prepared(UsageRollup, "engine", engine), *rest)
            for start, user, key, engine, *rest in rows
        )
        for batch in _batched(prepared):
            _write(UsageRollup, ("period", "start", "user", "api_key", "engine", "model", *sums), batch)
    spent = (
        UsageRecord.objects.order_by().values_list("user_id").annotate(Sum("prompt_tokens"), Sum("generated_tokens"))
    )
    numbers = {user: (prompt, generated) for user, prompt, generated in spent}
    TokenLimit.objects.bulk_create(
        (
            TokenLimit(user_id=pk, prompt_token_number=prompt, gen_token_number=generated, prompt_token_limit=10**8,
                       gen_token_limit=10**8, tokens_per_day=10**7, requests_per_minute=60)
            for pk in User.objects.values_list("pk", flat=True)
            for prompt, generated in [numbers.get(pk, (0, 0))]
        ),
        500,
    )  # fmt: skip


def _rest(source: random.Random, now: datetime) -> None:
    people = list(User.objects.order_by("pk").values_list("pk", flat=True))
    at = lambda: now - timedelta(minutes=source.randrange(DAYS * 1440))  # noqa: E731
    talks = [(user, number) for user in people for number in range(1, 6)] + [(people[0], n) for n in range(6, 500)]
    made = Conversation.objects.bulk_create(
        (
            Conversation(user_id=user, number=n, title="What is a token?", created_at=now, updated_at=at())
            for user, n in talks
        ),
        500,
    )
    ConversationCounter.objects.bulk_create(
        (ConversationCounter(user_id=user, last_number=500) for user in people), 500
    )
    Message.objects.bulk_create(
        (
            Message(conversation=talk, role=role, content="So it was said. " * 20, created_at=now)
            for talk in made
            for role in ("user", "assistant") * 2
        ),
        2000,
    )
    about = ContentType.objects.get_for_model(User)
    LogEntry.objects.bulk_create(
        (
            LogEntry(user_id=people[0], action_time=at(), content_type=about, object_id=str(user), object_repr="a user",
                     action_flag=2, change_message="[]")
            for user in people * 3
        ),
        2000,
    )  # fmt: skip
    AuditRun.objects.bulk_create(AuditRun(at=now - timedelta(hours=n), broken=0) for n in range(200))


def _batched(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _write(table: type[Model], fields: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """In one go. PostgreSQL takes a million rows by COPY ten times as fast as by INSERT."""
    if connection.vendor != "postgresql":
        batches.insert(table, fields, rows)
        return
    names = ", ".join(f'"{table._meta.get_field(name).column}"' for name in fields)
    with connection.cursor() as cursor, cursor.copy(f'COPY "{table._meta.db_table}" ({names}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row(row)
