"""What can be known to go wrong before an engine is started. Each refusal names the field of the request.

Order: what costs nothing first, the hub last.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engines import adapters, contained, hub, hub_cache
from engines.adapters import NO_FOLDER, Adapter
from engines.fit.flags import read_flags
from engines.launchers.choice import chosen_name
from engines.launchers.container_config import cache_folder
from engines.models import Gpu
from engines.vllm_command import MAX_MODEL_LEN, MAX_SEED, QUANTIZATION, is_model_name, is_revision
from engines.waiting import release_database
from vllm_portal.config import get_config
from vllm_portal.errors import FieldError

_TOKEN = re.compile(r"[!-~]{1,500}\Z")
LONGEST_NAME = 300
MOST_CPU_WORKERS = 8
"""Largest tensor-parallel size without a GPU, where `cpu_slots` does not say."""


@dataclass(frozen=True)
class Order:
    """What somebody wants started, of the right types and otherwise unchecked. None or "": vLLM decides."""

    model: str
    hf_token: str = ""
    revision: str = ""
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    seed: int | None = None
    tokenizer: str = ""
    quantization: str = ""
    gpu_memory_utilization: float | None = None
    adapters: tuple[Adapter, ...] = ()
    shared: bool = False
    shared_users: tuple[str, ...] = ()
    shared_groups: tuple[str, ...] = ()
    lease_hours: float | None = None
    idle_minutes: int | None = None
    sleep_minutes: int | None = None
    wakes: bool = True
    # Of a recipe alone; no client names these.
    recipe: int | None = None
    tokenizer_revision: str = ""
    image: str = ""


@dataclass(frozen=True)
class Checked:
    """What the checks found out: paths without symbolic links, what will run it, whose token it is, and the commits
    that its repositories are fixed to: decision 0023."""

    model: str
    revision: str
    tokenizer: str
    tokenizer_revision: str
    launcher: str
    device: str
    image: str
    hf_account: str
    adapters: tuple[Adapter, ...]


def check(order: Order) -> Checked:
    """Raises FieldError. Asks the hub, so it takes up to hf_check_timeout_s; holds no database connection then."""
    checked = check_form(order)
    _check_parallel_size(order.tensor_parallel_size, checked.device)
    told = _ask_hub(checked, order.hf_token)
    return replace(
        checked,
        hf_account=told.account,
        revision=told.commits.get("Model", checked.revision),
        tokenizer_revision=told.commits.get("TOKENIZER", checked.tokenizer_revision),
        adapters=tuple(
            adapter._replace(revision=told.commits.get(hub.adapter_field(number), adapter.revision))
            for number, adapter in enumerate(checked.adapters)
        ),
    )


def check_form(order: Order) -> Checked:
    """What can be said without a look at GPUs and hub: no account yet, and the revision as it was asked for. Raises
    FieldError."""
    config = get_config()
    launcher = chosen_name()
    device = "cpu" if launcher == "simulator" else config.device
    if not order.model:
        raise FieldError("Model", "This field is required.")
    model = _repository_or_folder("Model", order.model)
    tokenizer = _repository_or_folder("TOKENIZER", order.tokenizer) if order.tokenizer else ""
    tokenizer_revision = (order.tokenizer_revision or "main") if tokenizer and not tokenizer.startswith("/") else ""
    _check_tokenizer_is_mounted(launcher, model, tokenizer)
    _check_range("MAX_MODEL_LEN", order.max_model_len, 1, MAX_MODEL_LEN)
    _check_range("SEED", order.seed, 0, MAX_SEED)
    _check_range("TENSOR_PARALLEL_SIZE", order.tensor_parallel_size, 1, 1024)
    if order.gpu_memory_utilization is not None and device == "cpu":
        raise FieldError("GPU_MEMORY_UTILIZATION", "Engines run without GPUs here, so there is nothing to share.")
    if order.quantization and not QUANTIZATION.match(order.quantization):
        raise FieldError("QUANTIZATION", "This is no name of a quantization, such as awq, gptq or fp8.")
    if order.hf_token and not _TOKEN.match(order.hf_token):
        raise FieldError(hub.TOKEN_FIELD, "A token has no spaces and no special characters, and is not that long.")
    return Checked(
        model=model,
        revision=_revision(model, order.revision),
        tokenizer=tokenizer,
        tokenizer_revision=tokenizer_revision,
        launcher=launcher,
        device=device,
        image=(order.image or config.docker_image) if launcher == "docker" else "",
        hf_account="",
        adapters=_adapters(order, model, launcher),
    )


def _adapters(order: Order, model: str, launcher: str) -> tuple[Adapter, ...]:
    given = order.adapters
    if len(given) > adapters.MOST:
        raise FieldError(hub.ADAPTERS, f"An engine takes {adapters.MOST} adapters at most.")
    names = [adapter.name for adapter in given]
    for name in names:
        if not adapters.NAME.match(name):
            raise FieldError(
                hub.ADAPTERS, "A name has up to 64 letters, digits and . _ -, and begins with a letter or digit."
            )
        if name == model or names.count(name) > 1:
            raise FieldError(
                hub.ADAPTERS, f"{name} is {'the model' if name == model else 'there twice'}: take another."
            )
    checked = tuple(_adapter(adapter) for adapter in given)
    models = [adapter.model for adapter in checked]
    for adapter in checked:
        if models.count(adapter.model) > 1:
            raise FieldError(hub.ADAPTERS, f"{adapter.model} is there twice: requests could not tell which is meant.")
        if len(adapters.full_name(model, adapter)) > LONGEST_NAME:
            raise FieldError(hub.ADAPTERS, f"{adapter.name}: its name and the model's are too long together.")
    fetched = launcher != "simulator" and any(adapter.on_hub for adapter in checked)
    if fetched and cache_folder(get_config().hf_cache_dir) is None:
        raise FieldError(hub.ADAPTERS, NO_FOLDER)
    return checked


def _adapter(adapter: Adapter) -> Adapter:
    name, field = adapter.name, hub.ADAPTERS
    if adapter.on_hub:
        if not is_model_name(adapter.model):
            raise FieldError(field, f"{name}: this is no name of a repository on Hugging Face, such as owner/name.")
        if adapter.revision and not is_revision(adapter.revision):
            raise FieldError(field, f"{name}: this is no name of a branch, a tag or a commit.")
        return adapter
    if adapter.revision:
        raise FieldError(field, f"{name}: a folder has no revisions; leave it out.")
    folder = _folder(field, adapter.model, adapters.CONFIG, f"{name}: this is no adapter's folder that an admin allows")
    content = contained.read(Path(folder) / adapters.CONFIG, Path(folder), hub.LARGEST_CONFIG)
    try:
        adapters.rank_of(content or b"")
    except ValueError as error:
        raise FieldError(field, f"{name}: {error}.") from None
    return adapter._replace(model=folder)


def _repository_or_folder(field: str, text: str) -> str:
    if text.startswith("/"):
        return _folder(field, text, "config.json", "This is no model's folder that an admin allows")
    if not is_model_name(text):
        raise FieldError(field, "This is no name of a model on Hugging Face; names look like owner/name.")
    return text


def _revision(model: str, asked: str) -> str:
    """As the operator fixed it for all engines, else as asked for; "": main."""
    if asked and model.startswith("/"):
        raise FieldError("REVISION", "A folder has no revisions; leave it out.")
    if asked and not is_revision(asked):
        raise FieldError("REVISION", "This is no name of a branch, a tag or a commit.")
    return "" if model.startswith("/") else read_flags(get_config().engine_extra_args).revision or asked


def _folder(field: str, text: str, file: str, refused: str) -> str:
    """Its real path. `file`: what it must hold. One answer for what is not allowed, not there, and no model, so that it
    tells nothing of the machine's folders."""
    refusal = FieldError(field, f"{refused} (allowed_model_roots).")
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise refusal
    try:
        folder = Path(text).resolve(strict=True)
        roots = [root.resolve() for root in get_config().allowed_model_roots]
        allowed = any(folder.is_relative_to(root) for root in roots) and (folder / file).is_file()
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
        slots = get_config().cpu_slots or MOST_CPU_WORKERS
        if size > slots:
            raise FieldError(field, f"At most {slots} where engines run without GPUs.")
        return
    present = Gpu.objects.filter(present=True).count()
    if present and size > present:
        raise FieldError(field, f"There {'is 1 GPU' if present == 1 else f'are {present} GPUs'} here.")


def _ask_hub(checked: Checked, token: str) -> hub.Told:
    """Where the hub may not be asked or does not tell, the commits are those of the cache: vLLM would take these."""
    config = get_config()
    wanted = {
        "Model": hub.Wanted(checked.model, checked.revision),
        "TOKENIZER": hub.Wanted(checked.tokenizer, checked.tokenizer_revision),
        **{
            hub.adapter_field(number): hub.Wanted(adapter.model, adapter.revision)
            for number, adapter in enumerate(checked.adapters)
        },
    }
    repositories = {field: one for field, one in wanted.items() if one.name and not one.name.startswith("/")}
    told = hub.Told("", {})
    if not config.hf_check and not config.hf_offline:
        return told  # the hub may have something newer than the cache
    if (repositories or token) and not config.hf_offline:
        release_database()
        told = hub.check(repositories, token, config.hf_endpoint, config.hf_check_timeout_s)
    return replace(told, commits={**_cached(repositories), **told.commits})


def _cached(repositories: Mapping[str, hub.Wanted]) -> dict[str, str]:
    cache = cache_folder(get_config().hf_cache_dir)
    if cache is None:
        return {}
    commits = {field: hub_cache.commit_of(cache, *wanted) for field, wanted in repositories.items()}
    return {field: commit for field, commit in commits.items() if commit}
