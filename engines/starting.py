"""Somebody asks for an engine: check, make the row, hint."""

import re
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import User
from engines import adapters, hints, lifecycle, preflight, recipes, sharing, terms
from engines.models import Engine
from engines.placement import SLICES, slices_for
from engines.preflight import Checked, Order
from engines.recipe_models import Recipe
from engines.start_options import kind_of
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import CallerError, NotFound

_ATTEMPTS = 5


def start(owner: User, order: Order, made: Callable[[Engine], None] = lambda engine: None) -> Engine:
    """The QUEUED engine; the worker launches it. Two starts at once are two engines. `made` is called with the row in
    the transaction that makes it: what it raises, undoes the start.

    Raises FieldError, NotFound where the order's recipe has gone, or CallerError where the owner has as many engines or
    GPUs as allowed.
    """
    _refuse_too_many(owner, order)  # before the hub is asked; below it counts
    columns = {
        "lease_hours": terms.lease_hours(order.lease_hours, owner),
        "idle_minutes": terms.idle_minutes(order.idle_minutes, owner),
        "sleep_minutes": terms.sleep_minutes(order.sleep_minutes, owner),
        "wakes": order.wakes,
    }
    sharing.users_named(order.shared_users)
    sharing.groups_named(order.shared_groups)
    checked = preflight.check(order)
    with transaction.atomic():
        # One start of a user at a time, so that two at once cannot both be the last that is allowed.
        User.objects.select_for_update().get(pk=owner.pk)
        _refuse_too_many(owner, order)
        if order.recipe is not None and Recipe.objects.select_for_update().filter(pk=order.recipe).first() is None:
            raise NotFound("There is no such recipe any more.")
        engine = _make(owner, order, checked, **columns)
        if order.shared_users or order.shared_groups:
            sharing.change(engine, shared_users=order.shared_users, shared_groups=order.shared_groups)
        made(engine)
        transaction.on_commit(partial(hints.launch, engine.pk))
    return engine


def start_again(engine: Engine, owner: User) -> Engine:
    """A new engine with the same options, of the same commit of its model and of its recipe. An engine that has ended
    has forgotten its Hugging Face token, and so starts without. Raises as `start`."""
    order = Order(
        model=engine.model,
        hf_token=decrypt(engine.hf_token_encrypted),
        **{**engine.options, "adapters": adapters.of(engine.adapters)},
        shared=engine.shared,
        lease_hours=engine.lease_hours,
        idle_minutes=engine.idle_minutes,
        sleep_minutes=engine.sleep_minutes,
        wakes=engine.wakes,
        **{name: tuple(given) for name, given in sharing.names(engine).items()},
    )
    return start(owner, recipes.again(engine, order))


def engine_name(model: str) -> str:
    """Such as `opt-125m-3fa9`: the model's own name and something random."""
    basename = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
    return f"{basename[:60] or 'engine'}-{secrets.token_hex(2)}"


def _refuse_too_many(owner: User, order: Order) -> None:
    config, active = get_config(), Engine.objects.active().filter(owner=owner)
    if active.count() >= config.engines_per_user:
        most = config.engines_per_user
        raise CallerError(f"{owner} has {most} engines, which is as many as allowed; terminate one first.")
    if config.device != "cpu":
        refuse_too_many_gpus(owner, order.tensor_parallel_size * slices_for(order.gpu_memory_utilization) / SLICES)


def refuse_too_many_gpus(owner: User, gpus: float) -> None:
    """`gpus`: parts included. Raises CallerError where the owner's other engines leave too few of those that one may
    hold."""
    most = get_config().gpus_per_user
    if most is None:
        return
    awake = Engine.objects.awake().filter(owner=owner).exclude(device="cpu")
    held = sum(engine.gpus for engine in awake)
    if held + gpus > most + 1e-9:
        raise CallerError(
            f"{owner}'s engines hold or wait for {held:g} GPUs, and {most} are allowed: "
            f"{gpus:g} more is too many; terminate one first."
        )


def _make(owner: User, order: Order, checked: Checked, **columns: Any) -> Engine:
    named = ("model", "revision", "tokenizer", "tokenizer_revision", "launcher", "device", "image")
    given = ("max_model_len", "tensor_parallel_size", "seed", "quantization", "gpu_memory_utilization")
    asked = {name: getattr(checked, name) for name in named} | {name: getattr(order, name) for name in given}
    asked["adapters"] = adapters.rows(checked.adapters)
    for attempt in range(_ATTEMPTS):
        try:
            with transaction.atomic():
                return lifecycle.request_start(
                    owner,
                    timezone.now(),
                    hf_token=order.hf_token,
                    name=engine_name(checked.model),
                    shared=order.shared,
                    hf_account=checked.hf_account,
                    recipe_id=order.recipe,
                    kind=kind_of(asked),
                    **asked,
                    **columns,
                )
        except IntegrityError:  # the name is taken
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
