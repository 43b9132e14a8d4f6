"""Why engines end, told from logs of real vLLM (in logs/) and of the stand-in."""

import json
from pathlib import Path

import pytest

from engines.causes import KNOWN
from engines.diagnosis import LONGEST_CAUSE, diagnose, stalled
from engines.launchers.base import Observation, Status
from engines.simulator.failures import CAUSES, StartFailure
from engines.startup_phase import startup_phase

LOGS = Path(__file__).with_name("logs")


def exited(code=1, **facts):
    return Observation(Status.EXITED, exit_code=code, **facts)


def log(name):
    return (LOGS / f"{name}.log").read_text()


CORPUS = json.loads(LOGS.joinpath("index.json").read_text())
"""Logs with what is to be said of them; index.json tells where each comes from. The lines that matter are the program's
own words; what stands around them is cut to a few lines of a log of that version."""


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: f"{case['log']}-{case['code']}")
def test_a_log_tells_its_cause_and_what_may_cure_it(case):
    status = Status.GONE if case.get("gone") else Status.EXITED
    seen = Observation(status, exit_code=case["exit_code"], oom_killed=case.get("oom_killed", False))
    diagnosis = diagnose(log(case["log"]), seen)
    assert (diagnosis.code, diagnosis.change) == (case["code"], case["change"]), diagnosis.cause
    assert case.get("words", "") in diagnosis.cause
    assert diagnosis.advice
    assert "{" not in diagnosis.cause.replace("{'", "")


def test_the_corpus_is_large_and_each_known_cause_has_a_log():
    failures = [case for case in CORPUS if not case["log"].startswith(("quiet", "good"))]
    assert len({case["log"] for case in failures}) >= 40
    assert {cause.code for cause in KNOWN} <= {case["code"] for case in failures}
    assert {case["log"] for case in CORPUS} == {path.stem for path in LOGS.glob("*.log")}
    assert all(case["source"] for case in CORPUS)


def test_a_log_without_its_middle_is_read_as_that_of_an_engine_that_has_served():
    text = log("quiet-request-error").split("Application startup complete.")[1]
    assert diagnose(text, exited(137), came_up=True).code == "killed"
    assert diagnose(log("gated-401"), exited(0), came_up=True).code == "ended"


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "(EngineCore pid=7) (Worker_TP0 pid=9) ERROR 11-22 22:06:05 [core.py:1] ",
        "ERROR 08-21 03:42:51 engine.py:366] ",
        "[rank0]: ",
        "\x1b[1;36m(VllmWorker rank=3 pid=4867)\x1b[0;0m ERROR 07-26 18:47:24 [multiproc_executor.py:511] ",
    ],
)
def test_a_cause_is_found_behind_what_each_vllm_writes_in_front_and_not_within_a_line(prefix):
    error = "ValueError: No available memory for the cache blocks."
    assert diagnose(f"{prefix}{error}\n", exited()).code == "kv_cache_too_small"
    assert diagnose(f"{prefix}somebody said {error}\n", exited()).code != "kv_cache_too_small"


@pytest.mark.parametrize("text", ['  File "/x.py", line 1, in load_model\n' * 2000, "x" * 200_000, "a.b: " * 40_000])
def test_a_log_that_matches_again_and_again_up_to_its_end_is_still_read(text):
    assert diagnose(text, exited()).code == "ended"


@pytest.mark.parametrize("number", ["0", "9" * 5000])
def test_a_number_that_is_none_is_no_change(number):
    error = (
        f"To serve at least one request with the model's max seq len (9), estimated maximum model length is {number}"
    )
    assert diagnose(error, exited()).change is None
    error = f"World size (1) is larger than the number of available GPUs ({number})"
    assert diagnose(error, exited()).change is None


UP = "INFO:     Application startup complete.\n"


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: NCCL error: unhandled system error\n" + UP,
        UP + "(APIServer pid=1) RuntimeError: NCCL error: unhandled system error\n",
        "'ConnectError: [Errno -2] Name or service not known' thrown while requesting HEAD https://huggingface.co/a/b\n",
    ],
    ids=["before it came up", "of a request", "tried again"],
)
def test_an_error_that_it_survived_is_no_cause(text):
    assert diagnose(text, exited(137)).code == "killed"


def test_no_gpus_at_all_are_not_too_few():
    error = "ValueError: World size (1) is larger than the number of available GPUs (0) in this node."
    assert diagnose(error, exited()).code == "no_gpu"


def test_out_of_memory_is_seen_by_the_daemon_and_not_in_the_log():
    assert diagnose(log("oom700"), exited(137, oom_killed=True)).code == "out_of_memory"
    assert diagnose(log("oom700"), exited(137)).code == "killed"


def test_harmless_lines_that_quote_errors_are_no_cause():
    assert "Too many open files" in log("oom700")
    assert diagnose(log("oom700"), exited(1)).cause == "It ended with exit code 1 and did not say why."


CODES = {
    "max-model-len": "max_model_len_too_large", "unsupported-arch": "model_unsupported",
    "quantization": "quantization_wrong", "tensor-parallel": "not_enough_gpus", "no-gpu": "no_gpu",
    "gated": "model_gated", "no-such-model": "model_not_found", "no-such-path": "model_folder_missing",
    "offline": "model_not_cached", "kv-cache": "kv_cache_too_small", "gpu-memory": "gpu_memory_in_use",
    "cuda-oom": "gpu_out_of_memory", "shm": "shm_too_small", "silent": "ended",
    "token": "token_invalid", "hub": "hub_unreachable", "remote-code": "needs_remote_code",
    "heads": "tensor_parallel_wrong", "tokenizer": "tokenizer_unusable", "port": "port_in_use",
    "driver": "driver_too_old", "disk": "disk_full", "cache": "cache_not_writable", "broken-weights": "weights_broken",
    "weights": "weights_too_large", "warm-up": "warm_up_out_of_memory", "old-gpu": "gpu_unsupported",
    "dtype": "dtype_unsupported", "gpu-fault": "gpu_fault", "nccl": "nccl_failed",
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
    assert cause == "OSError: a b c"


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
