"""What can be known to go wrong before an engine is started. Each refusal names the field of the request.

Order: what costs nothing first, the hub last.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from engines import hub
from engines.launchers.choice import chosen_name
from engines.models import Gpu
from engines.vllm_command import MAX_MODEL_LEN, MAX_SEED, QUANTIZATION, is_model_name
from engines.waiting import release_database
from vllm_portal.config import get_config
from vllm_portal.errors import FieldError

_TOKEN = re.compile(r"[!-~]{1,500}\Z")
LONGEST_NAME = 300


@dataclass(frozen=True)
class Order:
    """What somebody wants started, of the right types and otherwise unchecked. None or "": vLLM decides."""

    model: str
    hf_token: str = ""
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    seed: int | None = None
    tokenizer: str = ""
    quantization: str = ""
    shared: bool = False
    shared_users: tuple[str, ...] = ()
    shared_groups: tuple[str, ...] = ()
    lease_hours: float | None = None
    idle_minutes: int | None = None
    wakes: bool = True


@dataclass(frozen=True)
class Checked:
    """What the checks found out: paths without symbolic links, what will run it, and whose token it is."""

    model: str
    tokenizer: str
    launcher: str
    device: str
    image: str
    hf_account: str


def check(order: Order) -> Checked:
    """Raises FieldError. Asks the hub, so it takes up to hf_check_timeout_s; holds no database connection then."""
    checked = check_form(order)
    _check_parallel_size(order.tensor_parallel_size, checked.device)
    return replace(checked, hf_account=_ask_hub(checked.model, checked.tokenizer, order.hf_token))


def check_form(order: Order) -> Checked:
    """What can be said without a look at GPUs and hub; no account yet. Raises FieldError."""
    config = get_config()
    launcher = chosen_name()
    device = "cpu" if launcher == "simulator" else config.device
    if not order.model:
        raise FieldError("Model", "This field is required.")
    model = _repository_or_folder("Model", order.model)
    tokenizer = _repository_or_folder("TOKENIZER", order.tokenizer) if order.tokenizer else ""
    _check_tokenizer_is_mounted(launcher, model, tokenizer)
    _check_range("MAX_MODEL_LEN", order.max_model_len, 1, MAX_MODEL_LEN)
    _check_range("SEED", order.seed, 0, MAX_SEED)
    _check_range("TENSOR_PARALLEL_SIZE", order.tensor_parallel_size, 1, 1024)
    if order.quantization and not QUANTIZATION.match(order.quantization):
        raise FieldError("QUANTIZATION", "This is no name of a quantization, such as awq, gptq or fp8.")
    if order.hf_token and not _TOKEN.match(order.hf_token):
        raise FieldError(hub.TOKEN_FIELD, "A token has no spaces and no special characters, and is not that long.")
    return Checked(
        model=model,
        tokenizer=tokenizer,
        launcher=launcher,
        device=device,
        image=config.docker_image if launcher == "docker" else "",
        hf_account="",
    )


def _repository_or_folder(field: str, text: str) -> str:
    if text.startswith("/"):
        return _folder(field, text)
    if not is_model_name(text):
        raise FieldError(field, "This is no name of a model on Hugging Face; names look like owner/name.")
    return text


def _folder(field: str, text: str) -> str:
    """Its real path. One answer for what is not allowed, not there, and no model, so that it tells nothing of the
    machine's folders."""
    refusal = FieldError(field, "This is no model's folder that an admin allows (allowed_model_roots).")
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise refusal
    try:
        folder = Path(text).resolve(strict=True)
        roots = [root.resolve() for root in get_config().allowed_model_roots]
        allowed = any(folder.is_relative_to(root) for root in roots) and (folder / "config.json").is_file()
    except (OSError, RuntimeError):
        raise refusal from None
    if not allowed or len(str(folder)) > LONGEST_NAME or not str(folder).isprintable():
        raise refusal
    return str(folder)


def _check_tokenizer_is_mounted(launcher: str, model: str, tokenizer: str) -> None:
    if launcher != "docker" or not tokenizer.startswith("/"):
        return
    if not (model.startswith("/") and Path(tokenizer).is_relative_to(model)):
        raise FieldError(
            "TOKENIZER", "A tokenizer's folder has to lie within the model's, which is all a container sees."
        )


def _check_range(field: str, value: int | None, least: int, most: int) -> None:
    if value is None:
        return
    if value < least:
        raise FieldError(field, f"Ensure this value is greater than or equal to {least}.")
    if value > most:
        raise FieldError(field, f"Ensure this value is less than or equal to {most}.")


def _check_parallel_size(size: int, device: str) -> None:
    field = "TENSOR_PARALLEL_SIZE"
    if device == "cpu":
        slots = get_config().cpu_slots
        if size > slots:
            raise FieldError(field, f"At most {slots} where engines run without GPUs.")
        return
    present = Gpu.objects.filter(present=True).count()
    if present and size > present:
        raise FieldError(field, f"There {'is 1 GPU' if present == 1 else f'are {present} GPUs'} here.")


def _ask_hub(model: str, tokenizer: str, token: str) -> str:
    config = get_config()
    if not config.hf_check or config.hf_offline:
        return ""
    named = {"Model": model, "TOKENIZER": tokenizer}
    repositories = {field: name for field, name in named.items() if name and not name.startswith("/")}
    if not repositories and not token:
        return ""
    release_database()
    return hub.check(repositories, token, config.hf_endpoint, config.hf_check_timeout_s)
