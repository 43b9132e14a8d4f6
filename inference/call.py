"""A request on its way to an engine, and what the portal changes in it."""

import hmac
from dataclasses import dataclass
from functools import lru_cache

from inference.body import Body, Kind
from inference.routing import Caller, Route
from vllm_portal.secret_keys import secret_key


@dataclass(slots=True)
class Call:
    """What a caller wants of an engine. `path` is the engine's, such as /v1/chat/completions."""

    caller: Caller
    route: Route
    path: str
    kind: Kind
    body: Body
    request_id: str


def prepare(call: Call, granted: int) -> None:
    """Makes the body what the engine is to get. `granted`: the generated tokens that are reserved."""
    if call.kind is Kind.EMBEDDING:
        return
    _lower_max_tokens(call, granted)
    if call.route.shared:
        call.body.set("cache_salt", cache_salt(call.caller.user_id))


def _lower_max_tokens(call: Call, granted: int) -> None:
    """Tells the engine to stop where the reservation ends."""
    each = granted // call.body.choices
    asked = call.body.max_tokens
    if asked is None and each >= call.route.max_model_len:
        return  # the context ends first
    if asked is None or each < asked:
        call.body.set(call.body.max_tokens_field, each)


@lru_cache(maxsize=10_000)
def cache_salt(user_id: int) -> str:
    """vLLM uses a cached prefix again only for the same salt. Without one, the time to the first token would tell the
    users of a shared engine what others have asked."""
    return hmac.new(secret_key("cache-salt").encode(), b"%d" % user_id, "sha256").hexdigest()[:32]
