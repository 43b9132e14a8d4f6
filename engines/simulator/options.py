"""vLLM's command line, as far as the stand-in takes it, and the `--simulate-…` flags.

What has no meaning without a model (`--dtype`, `--gpu-memory-utilization`, …) is accepted and shown in the log. A flag
that vLLM 0.32 does not have is refused as vLLM refuses it: two lines and exit code 2.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from engines.simulator.failures import CAUSES
from engines.simulator.flags import INTEGER_FLAGS, MANY, SHORT, SWITCHES, TEXT_FLAGS
from engines.simulator.misbehaviour import KINDS, Faults, Kind, Value, parse_value

DEFAULT_MAX_MODEL_LEN = 32768
_POOLING_NAMES = re.compile(r"embed|bge|(?:^|[/_-])e5|minilm", re.IGNORECASE)

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SERVE_USAGE = """usage: vllm [-h] [-v]
            {chat,complete,serve,launch,bench,collect-env,download-kernels,preload,run-batch,snapshot}
            ...
"""


@dataclass(frozen=True)
class Adapter:
    """One of `--lora-modules`. `base`: the name of the model, where it is given."""

    name: str
    path: str
    base: str = ""


@dataclass(frozen=True)
class Options:
    """One engine's settings. Seconds are floats, lengths are tokens."""

    model: str
    names: tuple[str, ...]
    host: str
    port: int
    """0: any free one; the log says which."""
    given: dict[str, Any]
    """What the log shows as non-default args: without keys and tokens."""
    api_keys: tuple[str, ...] = ()
    max_model_len: int = DEFAULT_MAX_MODEL_LEN
    adapters: tuple[Adapter, ...] = ()
    max_num_seqs: int = 256
    pooling: bool = False
    enforce_eager: bool = False
    prefix_caching: bool = True
    tensor_parallel_size: int = 1
    quantization: str = ""
    root_path: str = ""
    shutdown_timeout: int = 0
    access_log: bool = True
    silent_paths: tuple[str, ...] = ()
    request_id_headers: bool = False
    force_include_usage: bool = False
    auto_tool_choice: bool = False
    tool_call_parser: str = ""
    thinks: bool = False
    chat_template: bool = True
    start_seconds: float = 0.5
    start: str = ""
    """"": it starts; else `never-healthy`, `hangs`, or a name of failures.CAUSES."""
    token_seconds: float = 0.002
    first_token_seconds: float = 0.0
    unhealthy_after: int | None = None
    health_hangs: bool = False
    dev_mode: bool = False
    """Routes for sleeping are open."""
    sleep_seconds: float = 0.0
    sleep_fails: str = ""
    """`sleep` or `wake`: which of them fails."""
    faults: Faults = field(default_factory=Faults)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{_SERVE_USAGE}vllm: error: {message}\n")
        sys.exit(2)


def human_integer(text: str) -> int:
    """ "2048", "2k" (2000), "2K" (2048), "25.6k"; "auto" and "-1" are -1."""
    if text == "auto":
        return -1
    if text[-1:] not in _UNITS:
        return int(text)
    value = float(text[:-1]) if text[-1].islower() else int(text[:-1])
    return int(value * _UNITS[text[-1]])


def parse(argv: Sequence[str], key_of_environment: str = "", dev_mode: bool = False) -> Options:
    """`dev_mode`: VLLM_SERVER_DEV_MODE is set. Exits with code 2, or after --help with 0."""
    words = [_dashed(word) for word in argv]
    model = [words.pop(0)] if words and not words[0].startswith("-") else []
    parser = _parser()
    if any(word in ("-h", "--help") or word.startswith("--help=") for word in words):
        parser.print_help()
        sys.exit(0)
    flags, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    name = model[0] if model else flags.model
    if not name:
        parser.error("the following arguments are required: model_tag")
    return _options(name, vars(flags), key_of_environment, dev_mode, _adapters(parser, flags.lora_modules or []))


def _adapters(parser: argparse.ArgumentParser, items: Sequence[str]) -> tuple[Adapter, ...]:
    """`name=path`, or JSON."""
    found = []
    for item in filter(None, items):
        if "=" in item and "," not in item:
            found.append(Adapter(*item.split("=", 1)))
            continue
        try:
            told = json.loads(item)
            found.append(Adapter(told["name"], told["path"], told.get("base_model_name") or ""))
        except json.JSONDecodeError:
            parser.error(f"Invalid JSON format for --lora-modules: {item}")
        except (TypeError, KeyError, AttributeError) as error:
            parser.error(f"Invalid fields for --lora-modules: {item} - {error}")
    return tuple(found)


def _dashed(word: str) -> str:
    """vLLM takes --max_model_len for --max-model-len."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m engines.simulator",
        usage="%(prog)s MODEL [flags of `vllm serve`] [--simulate-… flags]",
        description="Stands in for `vllm serve` where there is no GPU. No model is loaded; the answers are made up.",
        epilog="VLLM_API_KEY in the environment is taken as --api-key; VLLM_SERVER_DEV_MODE=1 opens what sleep needs.",
        allow_abbrev=False,
        add_help=False,
    )
    vllm = parser.add_argument_group("flags of `vllm serve` (most change nothing here)")
    vllm.add_argument("--model", help="instead of the first argument")
    vllm.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1 (vLLM's own is every address)")
    vllm.add_argument("--gpu-memory-utilization", "--device-memory-utilization", type=float)
    vllm.add_argument("--quantization", "-q")
    vllm.add_argument("--attention-config", "-ac")
    for flag in TEXT_FLAGS.split():
        vllm.add_argument(*_names(flag))
    for flag in INTEGER_FLAGS.split():
        vllm.add_argument(*_names(flag), type=human_integer)
    for flag in MANY:
        vllm.add_argument(flag, nargs="+")
    for flag in SWITCHES.split():
        vllm.add_argument(*_names(flag), action=argparse.BooleanOptionalAction)
    _add_simulation(parser.add_argument_group("simulation of an engine"))
    faults = parser.add_argument_group(
        "misbehaviour of answers",
        'for every request; for one of them: "vllm_xargs": {"simulate": "slow:0.1,dies-after:5"} in its body, '
        '"none" spares it',
    )
    for kind, known in KINDS.items():
        _add_fault(faults, kind, known)
    return parser


def _names(flag: str) -> list[str]:
    return [flag, SHORT[flag]] if flag in SHORT else [flag]


def _add_simulation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--simulate-start-seconds", type=float, default=0.5, help="how long loading takes (0.5)")
    group.add_argument("--simulate-token-seconds", type=float, default=0.002, help="between two tokens (0.002)")
    group.add_argument("--simulate-first-token-seconds", type=float, default=0.0, help="before the first token (0)")
    group.add_argument("--simulate-never-healthy", action="store_true", help="loads for ever, and logs progress")
    group.add_argument("--simulate-start-hangs", action="store_true", help="loads for ever, and logs nothing")
    group.add_argument(
        "--simulate-start-failure", choices=sorted(CAUSES), metavar="CAUSE", help=f"one of {', '.join(sorted(CAUSES))}"
    )
    group.add_argument(
        "--simulate-unhealthy-after", type=int, metavar="N", help="dead once N requests have come: 503, 500"
    )
    group.add_argument("--simulate-health-hangs", action="store_true", help="/health never answers")
    group.add_argument(
        "--simulate-sleep-seconds", type=float, default=0.0, help="how long falling asleep takes, and each waking (0)"
    )
    group.add_argument("--simulate-sleep-failure", choices=("sleep", "wake"), help="which of them is answered with 500")
    group.add_argument("--simulate-no-chat-template", action="store_true", help="a model without a chat template")


def _add_fault(group: argparse._ArgumentGroup, kind: str, known: Kind) -> None:
    def parsed(text: str) -> Value:
        return parse_value(kind, text)

    parsed.__name__ = kind
    name = f"--simulate-{kind}"
    if known.parse is None:
        group.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=known.help)
        return
    optional = {"nargs": "?", "const": known.default} if known.default is not None else {}
    group.add_argument(name, type=parsed, metavar=known.metavar, default=argparse.SUPPRESS, help=known.help, **optional)


def _options(
    model: str, flags: dict[str, Any], key_of_environment: str, dev_mode: bool, adapters: tuple[Adapter, ...]
) -> Options:
    faults = {}
    for kind in KINDS:
        value = flags.get("simulate_" + kind.replace("-", "_"), False)
        if value is not False:
            faults[kind] = None if value is True else value
    start = flags["simulate_start_failure"] or ""
    if flags["simulate_never_healthy"]:
        start = "never-healthy"
    if flags["simulate_start_hangs"]:
        start = "hangs"
    length = flags["max_model_len"]
    keys = flags["api_key"] or ([key_of_environment] if key_of_environment else [])
    hidden = ("api_key", "hf_token", "model")
    given = {
        name: value
        for name, value in flags.items()
        if value is not None and value is not False and name not in hidden and not name.startswith("simulate_")
    }
    return Options(
        model=model,
        names=tuple(flags["served_model_name"] or [model]),
        host=flags["host"],
        port=8000 if flags["port"] is None else flags["port"],
        given={"model_tag": model, "model": model} | given,
        api_keys=tuple(keys),
        max_model_len=length if length is not None and length > 0 else DEFAULT_MAX_MODEL_LEN,
        adapters=adapters,
        max_num_seqs=flags["max_num_seqs"] or 256,
        pooling=flags["runner"] == "pooling"
        or (flags["runner"] in (None, "auto") and bool(_POOLING_NAMES.search(model))),
        enforce_eager=bool(flags["enforce_eager"]),
        prefix_caching=flags["enable_prefix_caching"] is not False,
        tensor_parallel_size=flags["tensor_parallel_size"] or 1,
        quantization=flags["quantization"] or "",
        root_path=(flags["root_path"] or "").rstrip("/"),
        shutdown_timeout=flags["shutdown_timeout"] or 0,
        access_log=not flags["disable_uvicorn_access_log"],
        silent_paths=tuple(filter(None, (flags["disable_access_log_for_endpoints"] or "").split(","))),
        request_id_headers=bool(flags["enable_request_id_headers"]),
        force_include_usage=bool(flags["enable_force_include_usage"]),
        auto_tool_choice=bool(flags["enable_auto_tool_choice"] and flags["tool_call_parser"]),
        tool_call_parser=flags["tool_call_parser"] or "",
        thinks=bool(flags["reasoning_parser"]),
        chat_template=bool(flags["chat_template"]) or not flags["simulate_no_chat_template"],
        start_seconds=flags["simulate_start_seconds"],
        start=start,
        token_seconds=flags["simulate_token_seconds"],
        first_token_seconds=flags["simulate_first_token_seconds"],
        unhealthy_after=flags["simulate_unhealthy_after"],
        health_hangs=flags["simulate_health_hangs"],
        dev_mode=dev_mode,
        sleep_seconds=flags["simulate_sleep_seconds"],
        sleep_fails=flags["simulate_sleep_failure"] or "",
        faults=Faults(faults),
    )
