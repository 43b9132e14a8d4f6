"""What the live ledger's answers mean to a caller: which limit refuses, whether waiting helps, and OpenAI's
`x-ratelimit-…` headers. Pure; times are Unix seconds."""

import time
from calendar import monthrange
from collections.abc import Sequence

from inference.errors import ApiError, InvalidKey, LimitReached, TryLater
from inference.upstream import Headers

_TOKEN_LINES = b"x-ratelimit-limit-tokens: %b\r\nx-ratelimit-remaining-tokens: %b\r\nx-ratelimit-reset-tokens: %ds\r\n"
_ALL_LINES = (
    _TOKEN_LINES + b"x-ratelimit-limit-requests: %b\r\nx-ratelimit-remaining-requests: %b\r\n"
    b"x-ratelimit-reset-requests: %ds\r\n"
)


class Revoked(InvalidKey):
    """The caller's rights have changed since they were looked up: looking again tells whether the key still counts."""

    def __init__(self) -> None:
        super().__init__("This access token or API key no longer counts; get a new one.")


class PromptTooLarge(LimitReached):
    """The bound of the prompt does not fit what is left; an exact count might. `left` tokens are not used up yet,
    `free` of them nobody holds."""

    def __init__(self, left: int, free: int, whose: str = "your limit") -> None:
        super().__init__(
            f"The prompt does not fit the {max(left, 0)} prompt tokens left of {whose}. An admin can raise it."
        )
        self.left = left
        self.free = free


class RateLimited(TryLater):
    """Too much in too short a time, or at once."""

    def __init__(self, what: str, limit: int, window: str, whose: str, reset_s: float) -> None:
        per = {"m": " a minute", "d": " a day", "M": " a month"}.get(window, " at once")
        noun = "requests" if what == "at once" else what
        super().__init__(f"{_upper(whose)} is {limit} {noun}{per}. Try again in {reset_s:.0f} s.")
        self.retry_after_s = reset_s
        if window:
            kind = what.encode()
            self.rates = [
                (b"x-ratelimit-limit-" + kind, b"%d" % limit),
                (b"x-ratelimit-remaining-" + kind, b"0"),
                (b"x-ratelimit-reset-" + kind, b"%ds" % reset_s),
            ]
        else:
            self.rates = []

    def headers(self) -> Headers:
        return [*super().headers(), *self.rates]


def away() -> TryLater:
    return TryLater("The portal cannot check your limits now.", status=503, code="limits_unavailable", retry_after_s=2)


def queue_full() -> TryLater:
    return TryLater("Too many of your requests wait for what your others hold.", retry_after_s=2)


def refusal(answer: bytes, prompt_tokens: int, least: int, now_s: int) -> tuple[ApiError, bool]:
    """(what to tell, whether it passes when other requests of the user settle). `least`: the fewest generated
    tokens that would do."""
    verdict, *fields = answer.split(b"\t")
    if verdict == b"revoked":
        return Revoked(), False
    if verdict == b"rate":
        what, limit, window, subject = fields
        error = RateLimited(what.decode(), int(limit), window.decode(), _whose(subject), reset_s(window, now_s))
        return error, not window
    left, free, whose = int(fields[0]), int(fields[1]), _whose(fields[2])
    if verdict == b"prompt":
        if left < prompt_tokens:
            return PromptTooLarge(left, free, whose), False
        return TryLater(f"Your other requests hold the rest of {whose} of prompt tokens.", retry_after_s=1), True
    if left >= least:
        error = TryLater(f"Your other requests hold the rest of {whose} of generated tokens.", retry_after_s=1)
        return error, True
    return LimitReached(f"{_upper(whose)} of generated tokens is used up. An admin can raise it."), False


def reset_s(window: bytes, now_s: int) -> int:
    """Whole seconds until the limits of a window (m, d, M) are full again; 1 for no window."""
    if window == b"m":
        return 60 - now_s % 60
    if window == b"d":
        return 86400 - now_s % 86400
    if window == b"M":
        today = time.gmtime(now_s)
        return (monthrange(today.tm_year, today.tm_mon)[1] - today.tm_mday) * 86400 + 86400 - now_s % 86400
    return 1


def rate_lines(told: Sequence[bytes], now_s: int) -> bytes:
    """OpenAI's headers, each line with its CRLF, of what the ledger answered to an admission: requests a minute where
    they are limited, and the tightest limit of tokens. A limit in total never resets: 0s."""
    _, _, requests, requests_left, tokens, tokens_left, window, _ = told
    resets = reset_s(window, now_s) if window else 0
    if requests == b"-1":
        return _TOKEN_LINES % (tokens, tokens_left, resets)
    return _ALL_LINES % (tokens, tokens_left, resets, requests, requests_left, 60 - now_s % 60)


def _whose(subject: bytes) -> str:
    return "your API key's limit" if subject.startswith(b"k") else "your limit"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
