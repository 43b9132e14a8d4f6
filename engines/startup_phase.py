"""What an engine that loads is doing, read from vLLM's log. Pure."""

import re

# In vLLM's order. The last line of the log that matches one of them counts.
_PHASES = [
    (re.compile(r"non-default args: "), "reading the model's configuration"),
    (re.compile(r"Resolved architecture: (?P<detail>\S+)"), "it is a {detail}"),
    (re.compile(r"Initializing a V1 LLM engine|Initializing an LLM engine"), "starting the engine's core"),
    (re.compile(r"Starting to load model "), "fetching and loading the weights"),
    (re.compile(r"Time spent downloading weights for \S+: (?P<detail>[\d.]+) s"), "downloaded in {detail} s"),
    (re.compile(r"Loading \S+ checkpoint shards: +(?P<detail>\d+)% Completed"), "loading weights {detail}%"),
    (re.compile(r"Loading weights took"), "weights are loaded"),
    (re.compile(r"Warming up model|Dynamo bytecode transform|Compiling a graph|torch\.compile takes"), "compiling"),
    (re.compile(r"Capturing CUDA graphs?"), "capturing CUDA graphs"),
    (re.compile(r"KV cache size: "), "memory for requests is set aside"),
    (re.compile(r"init engine \(profile"), "the engine's core is ready"),
    (re.compile(r"Starting vLLM (?:API )?server"), "starting to listen"),
]  # fmt: skip


def startup_phase(log: str) -> str:
    """A short line for people, such as `loading weights 45%`; "" when the log says nothing known (yet)."""
    for line in reversed(re.split(r"[\r\n]+", log)):
        for pattern, phase in reversed(_PHASES):
            if found := pattern.search(line):
                return phase.format(**found.groupdict())
    return ""
