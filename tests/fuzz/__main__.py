"""`python -m tests.fuzz front` looks for inputs that break a claim of `tests.fuzz.targets`, for FUZZ_SECONDS. What it
finds lies in tests/fuzz/corpus, as a file that the tests read from then on. Needs atheris."""

import hashlib
import logging
import os
import sys

import atheris

READERS = [
    "inference.front", "inference.plain", "inference.request_head", "inference.upstream", "inference.pool",
    "inference.exchange", "inference.sse", "uvicorn.protocols.http.httptools_impl", "tests.fakes.strict",
]  # fmt: skip

with atheris.instrument_imports(include=READERS):
    import tests.conftest  # noqa: F401  (sets Django up)
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.test_corpus import CORPUS


def main() -> None:
    logging.disable()
    name = sys.argv[1]
    kept = CORPUS / name

    def examine(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except Exception:
            (kept / f"broke-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    seconds = os.environ.get("FUZZ_SECONDS", "20")
    seeds = ",".join(map(str, sorted(kept.iterdir())))
    options = [f"-max_total_time={seconds}", "-max_len=2000", "-timeout=20", "-print_final_stats=1"]
    options += [f"-seed_inputs={seeds}", f"-dict={CORPUS.parent / 'words.dict'}", f"-artifact_prefix={kept}/"]
    atheris.Setup([name, *options, *sys.argv[2:]], examine)
    atheris.Fuzz()


main()
