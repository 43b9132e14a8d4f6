"""The stand-in's starts, failures to start, and ends."""

import re
import signal
import socket

import pytest

from engines.diagnosis import diagnose
from engines.launchers.base import Observation, Status
from engines.simulator import failures, misbehaviour
from tests.engines.simulator_process import (
    COMMAND,
    LONG,
    SimulatorProcess,
    chat_body,
    read_to_end,
    run_to_end,
)
from tests.waiting import wait_until


def test_the_log_of_a_start_has_vllm_s_lines_in_order(start):
    log = start("--max-model-len", "4k", "--enforce-eager", "-tp", "2").log()
    lines = [
        r"WARNING .* This is the simulated engine: no model is loaded",
        r"\(APIServer pid=\d+\) INFO \d\d-\d\d \d\d:\d\d:\d\d \[api_utils.py:286\] non-default args: {'model_tag'",
        r"Resolved architecture: LlamaForCausalLM",
        r"Using max model len 4000",
        r"\(EngineCore pid=\d+\) INFO .* Initializing a V1 LLM engine \(v0.32.0-simulated\) with config: .*=2,",
        r"Starting to load model acme/tiny\.\.\.",
        r"Loading safetensors checkpoint shards:  50% Completed \| 2/4",
        r"Loading weights took [\d.]+ seconds",
        r"GPU KV cache size: [\d,]+ tokens, Maximum concurrency for 4,000 tokens per request: [\d.]+x",
        r"init engine .* took [\d.]+ s",
        r"Starting vLLM server on http://127.0.0.1:\d+",
        r"Application startup complete.",
    ]
    assert re.search("(?s)" + ".*?".join(f"(?-s:{line})" for line in lines), log), log


def test_it_listens_only_when_it_has_loaded():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with SimulatorProcess("--simulate-never-healthy", "--port", str(port)) as engine:
        wait_until(lambda: engine.log().count("Loading safetensors") > 10)  # a start that works has 5
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        seen = len(engine.log())
        wait_until(lambda: len(engine.log()) > seen)
        engine.process.terminate()
        assert engine.wait() == 0


def test_a_start_that_hangs_says_nothing_more():
    with SimulatorProcess("--simulate-start-hangs") as engine:
        wait_until(lambda: "Starting to load model" in engine.log())
        engine.process.terminate()
        assert engine.wait() == 0
        assert "Loading safetensors" not in engine.log()


ROOT_CAUSES = {
    "max-model-len": "Value error, User-specified max_model_len (32768) is greater than the derived max_model_len",
    "unsupported-arch": "Value error, Model architectures ['ImaginaryForCausalLM'] are not supported",
    "quantization": "Value error, Unknown quantization method",
    "tensor-parallel": "ValueError: World size (4) is larger than the number of available GPUs (1)",
    "no-gpu": "RuntimeError: Failed to infer device type",
    "gated": "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
    "https://huggingface.co/acme/tiny",
    "no-such-model": "OSError: acme/tiny is not a local folder and is not a valid model identifier",
    "no-such-path": "HFValidationError: Repo id must be in the form",
    "offline": "LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder",
    "kv-cache": "ValueError: To serve at least one request with the model's max seq len (32768)",
    "gpu-memory": "ValueError: Free memory on device cuda:0",
    "cuda-oom": "torch.OutOfMemoryError: CUDA out of memory.",
    "shm": "RuntimeError: Insufficient space in /dev/shm",
    "token": "Invalid credentials in Authorization header",
    "hub": "OSError: We couldn't connect to 'https://huggingface.co'",
    "remote-code": "Value error, The repository acme/tiny contains custom code",
    "heads": "ValueError: Total number of attention heads (64) must be divisible by tensor parallel size (3).",
    "tokenizer": "OSError: Can't load tokenizer for 'acme/tiny'.",
    "port": "OSError: [Errno 98] Address already in use",
    "driver": "RuntimeError: The NVIDIA driver on your system is too old",
    "disk": "OSError: [Errno 28] No space left on device",
    "cache": "PermissionError: [Errno 13] Permission denied",
    "broken-weights": "safetensors_rust.SafetensorError: Error while deserializing header",
    "weights": "torch.OutOfMemoryError: CUDA out of memory.",
    "warm-up": "RuntimeError: CUDA out of memory occurred when warming up sampler",
    "old-gpu": "RuntimeError: CUDA error: no kernel image is available",
    "dtype": "ValueError: Bfloat16 is only supported on GPUs",
    "gpu-fault": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "nccl": "RuntimeError: NCCL error: unhandled system error",
}


@pytest.mark.parametrize("cause", sorted(ROOT_CAUSES))
def test_a_start_that_fails(cause):
    with SimulatorProcess("--simulate-start-failure", cause) as engine:
        assert engine.wait() == 1
        log = engine.log()
    assert ROOT_CAUSES[cause] in log
    assert "Starting vLLM server" not in log
    if failures.CAUSES[cause].phase == "load":
        assert re.search(r"\(EngineCore pid=\d+\) ERROR .*\] " + re.escape(ROOT_CAUSES[cause]), log)
        assert log.splitlines()[-1].startswith("RuntimeError: Engine core initialization failed. See root cause above.")


def test_every_cause_is_tested():
    assert set(failures.CAUSES) == {*ROOT_CAUSES, "oom-kill", "silent"}


@pytest.mark.parametrize(("cause", "code"), [("oom-kill", -signal.SIGKILL), ("silent", 0)])
def test_a_start_that_ends_without_a_word(cause, code):
    with SimulatorProcess("--simulate-start-failure", cause) as engine:
        assert engine.wait() == code
        assert "Error" not in engine.log().replace("OSError: [Errno 24]", "")


def test_a_local_model_that_is_not_there(tmp_path):
    with SimulatorProcess(model=str(tmp_path / "nope")) as engine:
        assert engine.wait() == 1
        assert "HFValidationError: Repo id must be" in engine.log()


def test_a_local_model_that_is_there(start, tmp_path):
    engine = start(model=str(tmp_path))
    refused = engine.chat(model="nope").json()["error"]["message"]
    assert refused == "The model `nope` does not exist. Valid aliases: <path>."


@pytest.mark.parametrize("flags", [["--nope", "1"], ["--task", "generate"], ["--swap-space", "4"]])
def test_a_flag_that_vllm_does_not_have(flags):
    ended = run_to_end([*COMMAND, "x", *flags])
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"vllm: error: unrecognized arguments: {' '.join(flags)}\n")


def test_flags_that_change_nothing_are_taken(start):
    flags = (
        "--dtype auto --gpu-memory-utilization 0.9 --seed 7 --tokenizer x/y -q awq --trust-remote-code --revision main "
        "--kv-cache-memory-bytes 1G --no-enable-log-requests --max_num_batched_tokens=2k --hf-token secret-token "
        "--runner generate --disable-access-log-for-endpoints /health,/metrics"
    )
    engine = start(*flags.split())
    assert engine.get("/health").status == 200
    assert engine.get("/version").status == 200
    wait_until(lambda: "GET /version" in engine.log())
    assert "GET /health" not in engine.log()
    assert "'quantization': 'awq'" in engine.log()
    assert "secret-token" not in engine.log()


def test_help_names_every_misbehaviour():
    shown = run_to_end([*COMMAND, "--help"]).stdout
    for kind in misbehaviour.KINDS:
        assert f"--simulate-{kind}" in shown


def test_a_port_that_is_taken(start):
    taken = start()
    with SimulatorProcess("--port", str(taken.port)) as second:
        assert second.wait() == 1
        assert "Address already in use" in second.log() or "address already in use" in second.log()


def test_sigterm_without_requests_ends_with_0(start):
    engine = start()
    engine.process.terminate()
    assert engine.wait() == 0
    assert "[shutdown]" in engine.log()


def test_sigterm_breaks_streams_as_vllm_does(start):
    engine = start("--max-num-seqs", "1")
    with (
        engine.open("/v1/chat/completions", chat_body("Hi", "slow:0.05", stream=True, **LONG)) as stream,
        engine.open("/v1/chat/completions", chat_body()) as waiting,
    ):
        wait_until(lambda: engine.metric("vllm:num_requests_waiting") == 1)
        engine.process.terminate()
        cut, refused = read_to_end(stream), read_to_end(waiting)
    assert engine.wait() == 0
    error = '{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    error += '"type": "InternalServerError", "param": null, "code": 500}}'
    assert f"data: {error}\n\ndata: [DONE]\n\n".encode() in cut
    assert refused.startswith(b"HTTP/1.1 500")


def test_a_shutdown_timeout_lets_requests_end(start):
    engine = start("--shutdown-timeout", "15", "--simulate-token-seconds", "0.02")
    body = chat_body("Hi", stream=True, max_tokens=30, ignore_eos=True)
    with engine.open("/v1/chat/completions", body) as stream:
        data = stream.recv(1)
        engine.process.terminate()
        wait_until(lambda: "mode=drain" in engine.log())
        assert engine.chat(max_tokens=1).status == 200  # as vLLM does, it still takes new ones
        data += read_to_end(stream)
    assert b"data: [DONE]" in data
    assert b"error" not in data
    assert engine.wait() == 0


def test_a_shutdown_timeout_is_kept(start):
    engine = start("--shutdown-timeout", "1")
    with engine.open("/v1/chat/completions", chat_body("Hi", "slow:0.05", stream=True, **LONG)) as stream:
        wait_until(lambda: engine.running() == 1)
        engine.process.terminate()
        assert b"EngineCore encountered an issue" in read_to_end(stream)
    assert engine.wait() == 0


@pytest.mark.parametrize("module", ["{", '{"name": "sql"}', '"sql"', "[]"])
def test_what_is_no_adapter_is_refused_as_an_argument(module):
    with SimulatorProcess("--lora-modules", module) as process:
        assert process.wait() == 2
        assert "--lora-modules" in process.log()


def test_an_adapters_folder_that_is_not_there_ends_it(tmp_path):
    with SimulatorProcess("--enable-lora", "--lora-modules", f"sql={tmp_path}") as process:
        assert process.wait() == 1
        assert diagnose(process.log(), Observation(Status.EXITED, exit_code=1)).code == "adapter_missing"
