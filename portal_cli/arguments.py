"""The command line's grammar."""

import argparse
import math
from collections.abc import Callable

from portal_cli import chat, doctor, engines, keys, launch, login, logs, recipes, usage
from portal_cli.failures import EXPLAINED

ABOUT = """\
The portal from a terminal. Begin with `portal login`. Stronger than that login are the variables PORTAL_URL and
PORTAL_KEY, and the flags --url and --key (which everybody on this machine can see).
"""


def parser() -> argparse.ArgumentParser:
    """What it parses has `run`, the command's function, and `json`."""
    common = _common(argparse.SUPPRESS)  # not given after the command, it is what was given before it
    top = argparse.ArgumentParser(
        "portal", description=ABOUT, epilog=EXPLAINED, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, parents=[_common(None)],
    )  # fmt: skip
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable, text: str, within=commands) -> argparse.ArgumentParser:
        made = within.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    _login(command)
    _engines(command)
    text = "Starts that can be made again exactly: list (without a command), save, rm."
    group = commands.add_parser("recipes", help=text, description=text, parents=[common], allow_abbrev=False)
    group.set_defaults(run=recipes.recipes_list)
    _recipes(command, group.add_subparsers(metavar="COMMAND"))
    _talk(command)
    text = "API keys for programs: list, make, revoke."
    group = commands.add_parser("keys", help=text, description=text, parents=[common], allow_abbrev=False)
    _keys(command, group.add_subparsers(metavar="COMMAND", required=True))
    made = command("usage", usage.usage, "What you have spent, and may still spend.")
    made.add_argument("--by", choices=["day", "model", "key", "engine", "user"], default="day")
    made.add_argument("--days", type=_days, default=30, help="of the last so many days (30)")
    command("doctor", doctor.doctor, "Looks at everything between here and an engine's answer, which takes a token.")
    return top


def _common(default: str | None) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=default)
    common.add_argument("--url", help="the portal's address")
    common.add_argument("--key", help="API key")
    common.add_argument(
        "--json", action="store_true", default=default or False, help="JSON on stdout; errors as JSON on stderr"
    )
    return common


def _login(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command("login", login.login, "Asks for your password once, and keeps an API key of its own.")
    made.add_argument("--username")
    made.add_argument("--with-key", action="store_true", help="ask for an API key in place of a password")
    made.add_argument("--key-name", help="how the new key is called in `portal keys list`")
    command("logout", login.logout, "Revokes that key and forgets it.")


def _engines(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command("launch", launch.launch, "Starts an engine for a model and prints the engine's name.")
    made.add_argument("model", metavar="MODEL", nargs="?", help="as on Hugging Face, such as facebook/opt-125m")
    made.add_argument("--recipe", metavar="NAME", help="as this recipe says, in place of a model and its options")
    made.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the model; main, as it is now")
    made.add_argument("--max-model-len", type=_count, metavar="TOKENS", help="longest request; the model's own")
    made.add_argument("--tensor-parallel-size", type=_count, metavar="GPUS")
    made.add_argument(
        "--gpu-memory-utilization", type=float, metavar="SHARE", help="of each GPU, 0.05 to 1; others may use the rest"
    )
    made.add_argument("--seed", type=int)
    made.add_argument("--quantization", metavar="METHOD")
    made.add_argument("--tokenizer", metavar="NAME")
    made.add_argument(
        "--adapter", dest="adapters", action="append", type=_adapter, metavar="NAME=REPOSITORY[@REVISION]",
        help="LoRA adapter that requests may name, repeatable",
    )  # fmt: skip
    made.add_argument("--hf-token", metavar="TOKEN", help="for a model that needs one; - reads it from stdin")
    made.add_argument("--lease-hours", type=float, metavar="HOURS", help="it is stopped then")
    made.add_argument("--idle-minutes", type=_count, metavar="MINUTES", help="stopped after so long without a request")
    made.add_argument("--sleep-minutes", type=_count, metavar="MINUTES", help="put to vLLM's sleep after so long")
    made.add_argument("--shared", action="store_true", help="for all users (admins only)")
    made.add_argument("--wait", action="store_true", help="until it is ready, showing each step; fails if it fails")
    _timeout(made, 3600)
    made = command("ps", engines.ps, "Engines that you may use.")
    made.add_argument("-a", "--all", action="store_true", help="ended ones too")
    made = command("logs", logs.logs, "What an engine says.")
    made.add_argument("name", metavar="NAME", help="of the engine, or its model or id")
    made.add_argument("-f", "--follow", action="store_true", help="go on until the engine ends")
    made.add_argument("-n", "--tail", type=_count, metavar="LINES", help="begin with the last ones")
    for name, run, text in (
        ("stop", engines.stop, "Ends engines."),
        ("rm", engines.rm, "Says what is left of ended engines; with --force ends them first."),
    ):
        made = command(name, run, text)
        made.add_argument("names", metavar="NAME", nargs="+", help="of the engine, or its model or id")
        made.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait for the end")
        made.add_argument(
            "--now", action="store_true", help="break off what they answer, also of those that end already"
        )
        _timeout(made, 120)
    made.add_argument("--force", action="store_true", help="stop what still runs")


def _recipes(command: Callable[..., argparse.ArgumentParser], within: argparse._SubParsersAction) -> None:
    made = command("save", recipes.recipes_save, "Makes a recipe of an engine of yours.", within)
    made.add_argument("name", metavar="NAME", help="how the recipe is called")
    made.add_argument("engine", metavar="ENGINE", help="name of the engine, or its model or id")
    made.add_argument("--notes", metavar="TEXT", help="for whoever starts it")
    made.add_argument("--publish", action="store_true", help="for all users (admins only)")
    made = command("rm", recipes.recipes_rm, "Deletes a recipe. Its engines stay.", within)
    made.add_argument("name", metavar="NAME", help="of the recipe, or its id")


def _talk(command: Callable[..., argparse.ArgumentParser]) -> None:
    command("models", chat.models, "Models that can be asked now.")
    made = command("chat", chat.chat, f"Talks with a model. {chat.HELP}")
    made.add_argument("model", metavar="MODEL", nargs="?", help="needed where several can be asked")
    made.add_argument("-m", "--message", metavar="PROMPT", help="one prompt, one answer; - reads it from stdin")
    made.add_argument("--system", metavar="TEXT", help="what the model is told before")
    made.add_argument("--max-tokens", type=_count, metavar="TOKENS")
    made.add_argument("--temperature", type=_positive)
    made.add_argument("--memory", action="store_true", help="in your latest conversation, which the portal keeps")
    made.add_argument("--conversation", type=_count, metavar="NUMBER", help="in this one, which the portal keeps")
    made.add_argument("--new", action="store_true", help="in a new one, which the portal keeps")


def _keys(command: Callable[..., argparse.ArgumentParser], within: argparse._SubParsersAction) -> None:
    made = command("list", keys.keys_list, "Your keys.", within)
    made.add_argument("-a", "--all", action="store_true", help="revoked ones too")
    made = command("make", keys.keys_make, "Makes a key and prints it, this once.", within)
    made.add_argument("name", metavar="NAME", help="what it is for")
    scopes = ["inference", "management", "read-only"]
    made.add_argument("--scope", action="append", choices=scopes, help="what it may do, repeatable (inference)")
    made.add_argument("--model", action="append", metavar="NAME", help="only this model or engine, repeatable (all)")
    made.add_argument("--days", type=_days, help="it expires after so many (never)")
    made.add_argument("--prompt-token-limit", type=_count, metavar="TOKENS")
    made.add_argument("--gen-token-limit", type=_count, metavar="TOKENS")
    made = command("revoke", keys.keys_revoke, "Ends a key at once.", within)
    made.add_argument("name", metavar="KEY", help="its id, name, or last four characters")


def _timeout(made: argparse.ArgumentParser, seconds: int) -> None:
    made.add_argument("--timeout", type=_positive, default=seconds, metavar="SECONDS", help=f"wait so long ({seconds})")


def _adapter(text: str) -> dict[str, str]:
    """A folder has no revision, and may have an @ in its name."""
    name, is_there, model = text.partition("=")
    if not is_there or not name or not model:
        raise ValueError
    model, _, revision = (model, "", "") if model.startswith("/") else model.partition("@")
    return {"name": name, "model": model} | ({"revision": revision} if revision else {})


def _count(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**53:
        raise ValueError
    return number


def _days(text: str) -> int:
    number = _count(text)
    if number > 36_500:
        raise ValueError
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number
