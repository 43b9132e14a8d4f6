"""/metrics: vLLM's names and labels, with exact counts.

A prompt's tokens count when its first token is generated (an embedding's: when it is answered), a generated token when
it is handed to the connection (of an answer in one piece: when it is generated). As in vLLM an aborted request is in no
`request_success`, and beside each counter stands a `_created` gauge that only looks like one.
"""

import time
from bisect import bisect_left
from collections import Counter

_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    def __init__(self, help: str, bounds: tuple[float, ...]) -> None:
        self.help = help
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Counters:
    """All that is counted. Used by one event loop, so nothing is locked."""

    def __init__(self, model_name: str, max_model_len: int, kv_cache_tokens: int, prefix_caching: bool) -> None:
        escaped = model_name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        self._model = f'model_name="{escaped}"'
        self._max_model_len = max_model_len
        self._kv_cache_tokens = kv_cache_tokens
        self._prefix_caching = prefix_caching
        self._created = time.time()
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.success: Counter[str] = Counter()
        self.http: Counter[tuple[str, str, str]] = Counter()
        """Answers by handler (the route, or "none"), method, and status such as "2xx"."""
        self.histograms = {
            "request_prompt_tokens": Histogram("Number of prefill tokens processed.", _TOKENS),
            "request_generation_tokens": Histogram("Number of generation tokens processed.", _TOKENS),
            "request_params_max_tokens": Histogram("Histogram of the max_tokens request parameter.", _TOKENS),
            "request_params_n": Histogram("Histogram of the n request parameter.", (1, 2, 5, 10, 20)),
            "time_to_first_token_seconds": Histogram("Histogram of time to first token in seconds.", _FIRST_TOKEN),
            "inter_token_latency_seconds": Histogram("Histogram of inter-token latency in seconds.", _BETWEEN),
            "e2e_request_latency_seconds": Histogram("Histogram of e2e request latency in seconds.", _REQUEST),
            "request_queue_time_seconds": Histogram("Histogram of time spent in WAITING phase.", _REQUEST),
            "request_inference_time_seconds": Histogram("Histogram of time spent in RUNNING phase.", _REQUEST),
            "request_prefill_time_seconds": Histogram("Histogram of time spent in PREFILL phase.", _REQUEST),
            "request_decode_time_seconds": Histogram("Histogram of time spent in DECODE phase.", _REQUEST),
        }
        self.observe_between = self.histograms["inter_token_latency_seconds"].observe

    def observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)

    def render(self, running: int, waiting: int, kv_tokens: int, sleep_level: int = 0) -> bytes:
        """The text for Prometheus. `kv_tokens`: how many the running requests hold. `sleep_level` 0: awake."""
        lines: list[str] = []
        usage = min(1.0, kv_tokens / self._kv_cache_tokens)
        capacity = {'reason="capacity"': waiting, 'reason="deferred"': 0}
        levels = enumerate(("awake", "weights_offloaded", "discard_all"))
        states = {f'sleep_state="{state}"': int(level == sleep_level) for level, state in levels}
        queried = self.prompt_tokens if self._prefix_caching else 0
        sources = {
            'source="local_compute"': self.prompt_tokens,
            'source="local_cache_hit"': 0,
            'source="external_kv_transfer"': 0,
        }
        finished = {f'finished_reason="{reason}"': self.success[reason] for reason in FINISHED_REASONS}
        self._gauge(lines, "num_requests_running", "Number of requests in model execution batches.", {"": running})
        self._gauge(lines, "num_requests_waiting", "Number of requests waiting to be processed.", {"": waiting})
        self._gauge(lines, "num_requests_waiting_by_reason", "Number of waiting requests by reason.", capacity)
        self._gauge(lines, "engine_sleep_state", "Engine sleep state.", states)
        self._gauge(lines, "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", {"": usage})
        self._counter(lines, "prefix_cache_queries", "Prefix cache queries, in tokens.", {"": queried})
        self._counter(lines, "prefix_cache_hits", "Prefix cache hits, in tokens.", {"": 0})
        self._counter(lines, "num_preemptions", "Cumulative number of preemptions.", {"": 0})
        self._counter(lines, "prompt_tokens", "Number of prefill tokens processed.", {"": self.prompt_tokens})
        self._counter(lines, "prompt_tokens_by_source", "Number of prompt tokens by source.", sources)
        self._counter(lines, "prompt_tokens_cached", "Number of cached prompt tokens.", {"": 0})
        self._counter(
            lines, "generation_tokens", "Number of generation tokens processed.", {"": self.generation_tokens}
        )
        self._counter(lines, "request_success", "Count of successfully processed requests.", finished)
        for name, histogram in self.histograms.items():
            self._histogram(lines, name, histogram)
        self._cache_config(lines)
        self._http(lines)
        return ("\n".join(lines) + "\n").encode()

    def _labels(self, more: str) -> str:
        # Sorted by name, as the Prometheus client writes them.
        return "{" + ",".join(sorted(filter(None, ('engine="0"', more, self._model)))) + "}"

    def _gauge(self, lines: list[str], name: str, help: str, values: dict[str, float]) -> None:
        lines += [f"# HELP vllm:{name} {help}", f"# TYPE vllm:{name} gauge"]
        lines += [f"vllm:{name}{self._labels(more)} {float(value)}" for more, value in values.items()]

    def _counter(self, lines: list[str], name: str, help: str, values: dict[str, float]) -> None:
        lines += [f"# HELP vllm:{name}_total {help}", f"# TYPE vllm:{name}_total counter"]
        lines += [f"vllm:{name}_total{self._labels(more)} {float(value)}" for more, value in values.items()]
        self._gauge(lines, f"{name}_created", help, dict.fromkeys(values, self._created))

    def _histogram(self, lines: list[str], name: str, histogram: Histogram) -> None:
        lines += [f"# HELP vllm:{name} {histogram.help}", f"# TYPE vllm:{name} histogram"]
        below = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            below += count
            le = "+Inf" if bound == float("inf") else str(float(bound))
            label = f'le="{le}"'
            lines.append(f"vllm:{name}_bucket{self._labels(label)} {float(below)}")
        lines.append(f"vllm:{name}_count{self._labels('')} {float(below)}")
        lines.append(f"vllm:{name}_sum{self._labels('')} {histogram.sum}")
        self._gauge(lines, f"{name}_created", histogram.help, {"": self._created})

    def _cache_config(self, lines: list[str]) -> None:
        blocks = self._kv_cache_tokens // 16
        concurrency = self._kv_cache_tokens / self._max_model_len
        more = (
            f'block_size="16",cache_dtype="auto",enable_prefix_caching="{self._prefix_caching}",engine="0",'
            f'kv_cache_max_concurrency="{concurrency}",kv_cache_size_tokens="{self._kv_cache_tokens}",'
            f'num_gpu_blocks="{blocks}"'
        )
        lines += [
            "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig",
            "# TYPE vllm:cache_config_info gauge",
            "vllm:cache_config_info{" + more + "} 1.0",
        ]

    def _http(self, lines: list[str]) -> None:
        lines += [
            "# HELP http_requests_total Total number of requests by method, status and handler.",
            "# TYPE http_requests_total counter",
        ]
        for (handler, method, status), count in self.http.items():
            lines.append(f'http_requests_total{{handler="{handler}",method="{method}",status="{status}"}} {count}.0')
