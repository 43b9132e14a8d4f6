"""Why engines end, told from logs of real vLLM (in logs/) and of the stand-in."""

from pathlib import Path

import pytest

from engines.diagnosis import LONGEST_CAUSE, diagnose, stalled
from engines.launchers.base import Observation, Status
from engines.simulator.failures import CAUSES, StartFailure
from engines.startup_phase import startup_phase

LOGS = Path(__file__).with_name("logs")


def exited(code=1, **facts):
    return Observation(Status.EXITED, exit_code=code, **facts)


def log(name):
    return (LOGS / f"{name}.log").read_text()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("badflag", "arguments_wrong", "--nope 1"),
        ("badname-offline", "model_not_cached", "not on this machine"),
        ("badpath", "model_folder_missing", "/models/nope"),
        ("maxlen", "max_model_len_too_large", "99999 is more than this model can take, which is 2048"),
    ],
)
def test_a_real_log_tells_its_cause(name, code, words):
    diagnosis = diagnose(log(name), exited(2 if name == "badflag" else 1))
    assert diagnosis.code == code
    assert words in diagnosis.cause
    assert diagnosis.advice


def test_out_of_memory_is_seen_by_the_daemon_and_not_in_the_log():
    assert diagnose(log("oom700"), exited(137, oom_killed=True)).code == "out_of_memory"
    assert diagnose(log("oom700"), exited(137)).code == "killed"


def test_harmless_lines_that_quote_errors_are_no_cause():
    assert "Too many open files" in log("oom700")
    assert diagnose(log("oom700"), exited(1)).cause == "It ended with exit code 1 and did not say why."


CODES = {
    "max-model-len": "max_model_len_too_large", "unsupported-arch": "model_unsupported",
    "quantization": "quantization_wrong", "tensor-parallel": "tensor_parallel_wrong", "no-gpu": "no_gpu",
    "gated": "model_gated", "no-such-model": "model_not_found", "no-such-path": "model_folder_missing",
    "offline": "model_not_cached", "kv-cache": "kv_cache_too_small", "gpu-memory": "gpu_memory_in_use",
    "cuda-oom": "gpu_out_of_memory", "shm": "shm_too_small", "silent": "ended",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(CAUSES) - {"oom-kill"}))
def test_what_the_stand_in_can_fail_of_is_known(name):
    with pytest.raises(StartFailure) as failure:
        CAUSES[name].happen("/models/nope", 99999)
    core = "".join(
        f"(EngineCore pid=7) ERROR 11-22 22:06:05 [core.py:1] {line}\n" for line in failure.value.core.split("\n")
    )
    diagnosis = diagnose(log("oom700") + core + failure.value.plain, exited(failure.value.exit_code))
    assert diagnosis.code == CODES[name]


def test_the_first_error_counts_where_none_is_known():
    text = (
        "(EngineCore pid=7) ERROR 11-22 22:06:05 [core.py:1] ZeroDivisionError: integer division by zero\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    )
    assert diagnose(text, exited()).cause == "ZeroDivisionError: integer division by zero"


def test_a_dead_worker_ends_with_exit_code_0():
    assert diagnose("EngineDeadError: EngineCore encountered an issue\n", exited(0)).code == "engine_died"


def test_what_is_gone_was_removed_by_somebody_else():
    assert diagnose("", Observation(Status.GONE)).code == "removed"


def test_a_cause_has_no_secret_no_end_of_line_and_an_end():
    cause = diagnose("OSError: token hf_abcdefghijklmnop " + "x" * 5000, exited()).cause
    assert "hf_abc" not in cause
    assert "\n" not in cause
    assert len(cause) <= LONGEST_CAUSE


def test_a_cause_is_text_that_any_database_takes():
    cause = diagnose("OSError: a\x00b\x1b[31m\ud800\u2028c", exited()).cause
    assert cause == "OSError: a b [31m c"


@pytest.mark.parametrize("text", ["", "\x00\xff", "{braces} {0}: Error: {x}", "Error: " * 1000])
def test_any_log_has_a_diagnosis(text):
    assert diagnose(text, exited()).cause


def test_a_stall_says_what_it_was_doing():
    assert "900 s" in stalled(900, "loading weights 45%").cause
    assert "loading weights 45%" in stalled(900, "loading weights 45%").cause


@pytest.mark.parametrize(
    ("last", "phase"),
    [
        ("", ""),
        ("nothing known\n", ""),
        ("INFO [model.py:733] Resolved architecture: BertModel\n", "it is a BertModel"),
        ("Loading safetensors checkpoint shards:  45% Completed | 9/20 [00:01<00:02]\r", "loading weights 45%"),
        ("Loading pt checkpoint shards: 100% Completed | 1/1\n", "loading weights 100%"),
        (
            "INFO [gpu_model_runner.py:1] Graph capturing finished\nCapturing CUDA graphs (PIECEWISE)",
            "capturing CUDA graphs",
        ),
    ],
)
def test_the_phase_is_the_last_known_line(last, phase):
    assert startup_phase(last) == phase


def test_a_real_start_goes_through_its_phases():
    lines = log("good-start-embed").splitlines(keepends=True)
    seen = []
    for end in range(len(lines)):
        phase = startup_phase("".join(lines[:end]))
        if not seen or seen[-1] != phase:
            seen.append(phase)
    assert seen == [
        "", "reading the model's configuration", "it is a BertModel", "starting the engine's core",
        "fetching and loading the weights", "loading weights 0%", "loading weights 100%", "weights are loaded",
        "the engine's core is ready", "starting to listen",
    ]  # fmt: skip
