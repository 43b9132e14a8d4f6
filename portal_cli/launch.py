"""`launch`: an engine from a model and its options, or from a recipe."""

import sys
import uuid
from argparse import Namespace
from typing import Any

from portal_cli import recipes
from portal_cli.credentials import find
from portal_cli.engines import ENDED, PATH, Engine, wait
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, part
from portal_cli.screen import Screen

_FIXED = (
    "model", "revision", "max_model_len", "tensor_parallel_size", "seed", "quantization", "tokenizer",
    "gpu_memory_utilization", "adapters",
)  # fmt: skip
"""What a recipe says, and nobody else where one is named."""


def launch(given: Namespace, screen: Screen) -> None:
    fixed = {name: getattr(given, name) for name in _FIXED if getattr(given, name) is not None}
    _refuse_both(given.recipe, fixed)
    portal = Portal(find(given))
    terms = ("lease_hours", "idle_minutes", "sleep_minutes")
    wish = {name: getattr(given, name) for name in terms if getattr(given, name) is not None}
    if given.hf_token:
        wish["hugging_face_hub_token"] = _hf_token(given.hf_token)
    if given.shared:
        wish["shared"] = True
    path = PATH
    if given.recipe is not None:
        path = f"{recipes.PATH}/{part(str(recipes.named(portal, given.recipe)['id']))}/start"
    # One launch is one engine, also when its answer got lost and it is sent again.
    once = {"Idempotency-Key": str(uuid.uuid4())}
    engine = portal.ask("POST", path, json=fixed | wish, headers=once, tries=3)
    for warning in engine.get("warnings", ()):
        screen.note(f"Warning: {warning}")
    if given.wait:
        engine = wait(portal, engine, screen, lambda state: state == "READY", given.timeout)
    if screen.as_json:
        screen.data(engine)
    elif engine["state"] != "FAILED":
        screen.text(engine["name"])
        screen.note(
            f"Ready at {engine['endpoint']}" if engine["state"] == "READY" else f"It is {engine['state']}: portal ps"
        )
    if engine["state"] in ENDED:
        raise Failure(_why(engine))


def _refuse_both(recipe: str | None, fixed: dict[str, Any]) -> None:
    """Raises Failure."""
    if recipe is None and "model" not in fixed:
        raise Failure("Name a model, or --recipe.", ExitCode.USAGE)
    if recipe is not None and fixed:
        flags = {"model": "MODEL", "adapters": "--adapter"}
        said = ", ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in fixed)
        raise Failure(f"The recipe says that: leave out {said}.", ExitCode.USAGE)


def _hf_token(text: str) -> str:
    return sys.stdin.readline().strip() if text == "-" else text


def _why(engine: Engine) -> str:
    told = [f"{engine['name']} has {'failed' if engine['state'] == 'FAILED' else 'been stopped'}"]
    told += [str(engine[name]).rstrip(".") for name in ("cause", "advice") if engine[name]]
    return ". ".join(told) + "."
