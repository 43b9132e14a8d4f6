"""What a client is told when the engine cannot be talked to."""

from inference.errors import EngineError
from inference.upstream import CannotConnect, TimedOut, UpstreamError


def engine_error(error: UpstreamError) -> EngineError:
    if isinstance(error, TimedOut):
        return EngineError(f"Timed out: the engine {error}.", status=504, code="engine_timeout")
    if isinstance(error, CannotConnect):
        return EngineError("The engine cannot be reached.", status=503, code="engine_unavailable", retry_after_s=2)
    return EngineError(f"The engine {error}.")


def engine_away(wait_s: float) -> EngineError:
    """It could not be connected to several times in a row, and is not asked again until then."""
    text = "The engine could not be reached several times; it may be starting again."
    return EngineError(text, status=503, code="engine_unavailable", retry_after_s=wait_s)
