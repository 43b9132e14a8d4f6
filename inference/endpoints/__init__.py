"""The endpoints of an engine that clients may use, one module a family."""

from inference.endpoints.base import Endpoint, StreamFilter
from inference.endpoints.chat import CHAT
from inference.endpoints.completions import COMPLETIONS
from inference.endpoints.messages import MESSAGES, CountTokens
from inference.endpoints.pooling import Embeddings, Rerank, Score
from inference.endpoints.responses import RESPONSES
from inference.endpoints.tokens import Detokenize, Tokenize

__all__ = ["CHAT", "COMPLETIONS", "ENDPOINTS", "MESSAGES", "RESPONSES", "Endpoint", "StreamFilter"]

_ALL: list[Endpoint] = [
    CHAT,
    COMPLETIONS,
    RESPONSES,
    MESSAGES,
    CountTokens(),
    Embeddings(),
    Rerank("/v1/rerank"),
    Rerank("/v2/rerank"),
    Rerank("/rerank"),
    Score("/v1/score"),
    Score("/score"),
    Tokenize(),
    Detokenize(),
]
ENDPOINTS: dict[str, Endpoint] = {endpoint.path: endpoint for endpoint in _ALL}
"""By their path at the engine, which is also the portal's."""
