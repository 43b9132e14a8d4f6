"""A request on its way to an engine, and what the portal changes in it."""

import hmac
from dataclasses import dataclass
from functools import lru_cache

from inference.body import Body
from inference.endpoints.base import Endpoint
from inference.routing import Caller, Route
from vllm_portal.secret_keys import secret_key


@dataclass(slots=True)
class Call:
    """What a caller wants of an engine."""

    caller: Caller
    route: Route
    endpoint: Endpoint
    body: Body
    request_id: str


def prepare(call: Call, granted: int) -> None:
    """Makes the body what the engine is to get. `granted`: the generated tokens that are reserved."""
    call.endpoint.limit(call.body, granted, call.route.max_model_len)
    if call.body.stream:
        call.body.known = _known(call.route.engine_id)
    if call.route.shared and call.endpoint.generates:
        call.body.set("cache_salt", cache_salt(call.caller.user_id))


@lru_cache(maxsize=1_000)
def _known(engine_id: str) -> dict[str, bytes]:
    """What an engine's streams have told of it. It is never restarted under the same id."""
    return {}


@lru_cache(maxsize=10_000)
def cache_salt(user_id: int) -> str:
    """vLLM uses a cached prefix again only for the same salt. Without one, the time to the first token would tell the
    users of a shared engine what others have asked."""
    return hmac.new(secret_key("cache-salt").encode(), b"%d" % user_id, "sha256").hexdigest()[:32]
