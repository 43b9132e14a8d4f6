"""Somebody asks for an engine: check, make the row, hint."""

import re
import secrets
from collections.abc import Callable
from functools import partial

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.models import User
from engines import hints, lifecycle, preflight
from engines.models import Engine
from engines.preflight import Checked, Order
from vllm_portal.config import get_config
from vllm_portal.encryption import decrypt
from vllm_portal.errors import CallerError

_ATTEMPTS = 5


def start(owner: User, order: Order, made: Callable[[Engine], None] = lambda engine: None) -> Engine:
    """The QUEUED engine; the worker launches it. Two starts at once are two engines. `made` is called with the row in
    the transaction that makes it: what it raises, undoes the start.

    Raises FieldError, or CallerError where the owner has as many engines as allowed.
    """
    _refuse_too_many(owner)  # before the hub is asked; below it counts
    checked = preflight.check(order)
    with transaction.atomic():
        # One start of a user at a time, so that two at once cannot both be the last that is allowed.
        User.objects.select_for_update().get(pk=owner.pk)
        _refuse_too_many(owner)
        engine = _make(owner, order, checked)
        made(engine)
        transaction.on_commit(partial(hints.launch, engine.pk))
    return engine


def start_again(engine: Engine, owner: User) -> Engine:
    """A new engine with the same options. An engine that has ended has forgotten its Hugging Face token, and so starts
    without. Raises as `start`."""
    order = Order(
        model=engine.model,
        hf_token=decrypt(engine.hf_token_encrypted),
        max_model_len=engine.max_model_len,
        tensor_parallel_size=engine.tensor_parallel_size,
        seed=engine.seed,
        tokenizer=engine.tokenizer,
        quantization=engine.quantization,
        shared=engine.shared,
    )
    return start(owner, order)


def engine_name(model: str) -> str:
    """Such as `opt-125m-3fa9`: the model's own name and something random."""
    basename = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
    return f"{basename[:60] or 'engine'}-{secrets.token_hex(2)}"


def _refuse_too_many(owner: User) -> None:
    allowed = get_config().engines_per_user
    if Engine.objects.active().filter(owner=owner).count() >= allowed:
        raise CallerError(f"{owner} has {allowed} engines, which is as many as allowed; terminate one first.")


def _make(owner: User, order: Order, checked: Checked) -> Engine:
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
                    model=checked.model,
                    max_model_len=order.max_model_len,
                    tensor_parallel_size=order.tensor_parallel_size,
                    seed=order.seed,
                    tokenizer=checked.tokenizer,
                    quantization=order.quantization,
                    launcher=checked.launcher,
                    device=checked.device,
                    image=checked.image,
                )
        except IntegrityError:  # the name is taken
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
