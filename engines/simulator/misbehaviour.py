"""What can be made to go wrong with an answer. Pure.

Each kind is a flag for all requests (`--simulate-dies-after 5`) and a word for one of them, in the body:
`"vllm_xargs": {"simulate": "slow:0.1,dies-after:5"}`. "none" there: this request is spared what the flags say.
"""

from dataclasses import dataclass, field

Value = int | float | str | None


@dataclass(frozen=True, slots=True)
class Kind:
    """`parse` reads what stands after the colon; None: nothing may. `default` is for a bare word; None: none."""

    help: str
    parse: type | None = None
    default: Value = None
    minimum: int | None = 0

    @property
    def metavar(self) -> str:
        return {int: "N", float: "SECONDS", str: "URL"}.get(self.parse or int, "")


KINDS = {
    "slow": Kind("SECONDS between two tokens of an answer", float),
    "late": Kind("SECONDS before the first token", float),
    "dies-after": Kind("the process exits with 1 after N tokens of an answer", int),
    "error-after": Kind("the engine fails after N tokens: vLLM's error event and [DONE], or a plain 500", int),
    "hangs-after": Kind("nothing more is sent after N tokens, and the connection stays open", int),
    "truncated-after": Kind("the answer ends without [DONE] after N tokens, as if it were whole", int),
    "cut-after": Kind("the connection is closed in the middle of the answer after N tokens", int),
    "hangs": Kind("the request is read and never answered"),
    "status": Kind("answers with status N and an error of vLLM's shape", int, minimum=200),
    "redirect": Kind("answers 302 to URL", str, "http://127.0.0.1:9/"),
    "wrong-content-type": Kind("answers 200 with a page of HTML"),
    "invalid-json": Kind("broken JSON: the body, or one event of the stream"),
    "long-line": Kind("an unknown field of N bytes in the body, or in one event of the stream", int, 1 << 20),
    "split-utf8": Kind("the answer has characters of several bytes, and each packet ends within one"),
    "usage-off": Kind("usage.completion_tokens is wrong by N, which may be negative", int, minimum=None),
    "usage-absent": Kind("no usage anywhere, asked for or not"),
    "usage-huge": Kind("usage.completion_tokens is 10**9"),
    "usage-negative": Kind("usage.completion_tokens is less than zero"),
}
MID_ANSWER = ("dies-after", "error-after", "hangs-after", "truncated-after", "cut-after")
INSTEAD_OF_ANSWER = ("hangs", "status", "redirect", "wrong-content-type")
MULTIBYTE = " é€😀"


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong with one request."""

    values: dict[str, Value] = field(default_factory=dict)

    def __contains__(self, kind: str) -> bool:
        return kind in self.values

    def __getitem__(self, kind: str) -> Value:
        return self.values[kind]

    def changed_by(self, words: str) -> "Faults":
        """These, and those that a request asks for. Raises ValueError with a text for the caller."""
        if words.strip() == "none":
            return Faults()
        return Faults(self.values | dict(parse_fault(word) for word in words.split(",")))

    def mid_answer(self) -> tuple[str, int] | None:
        """What happens after how many tokens: the earliest, if there are several."""
        happening = [(int(self.values[kind] or 0), kind) for kind in MID_ANSWER if kind in self.values]
        if not happening:
            return None
        after, kind = min(happening)
        return kind, after

    def instead_of_answer(self) -> str | None:
        return next((kind for kind in INSTEAD_OF_ANSWER if kind in self.values), None)

    def completion_tokens(self, true_count: int) -> int:
        """What usage says was generated."""
        if "usage-huge" in self.values:
            return 10**9
        if "usage-negative" in self.values:
            return -true_count - 1
        return true_count + int(self.values.get("usage-off") or 0)


def parse_fault(word: str) -> tuple[str, Value]:
    """ "dies-after:5" as ("dies-after", 5). Raises ValueError."""
    kind, _, text = word.strip().partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown misbehaviour {kind!r}, known are: {', '.join(KINDS)}")
    return kind, parse_value(kind, text)


def parse_value(kind: str, text: str) -> Value:
    known = KINDS[kind]
    if known.parse is None:
        if text:
            raise ValueError(f"{kind} takes no value")
        return None
    if not text:
        if known.default is None:
            raise ValueError(f"{kind} needs a value")
        return known.default
    value = known.parse(text)
    if known.minimum is not None and not isinstance(value, str) and not known.minimum <= value < float("inf"):
        raise ValueError(f"{kind} must be at least {known.minimum}")
    return value
