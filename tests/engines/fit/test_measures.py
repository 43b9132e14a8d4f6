"""What vLLM's log tells of a start, and that the next question uses it."""

import pytest
from django.utils import timezone

from engines import checking
from engines.fit import measures
from engines.fit.flags import GIB, MemoryFlags
from engines.fit.kv_cache import CacheSettings, needed_bytes
from engines.fit.log import Measured, read_log
from engines.fit.shape import read_shape
from engines.launchers.base import Observation, Status
from engines.models import Gpu, GpuLease, StartMeasure
from engines.states import State
from tests.engines.conftest import NOW
from tests.engines.fit.tiny import CONFIG

# As vLLM 0.32 writes them: `gpu_model_runner.py`, `gpu_worker.py`, `kv_cache_utils.py`.
GPU_LOG = """\
(EngineCore pid=77) INFO 11-22 22:17:52 [default_loader.py:501] Loading weights took 3.02 seconds
(EngineCore pid=77) INFO 11-22 22:17:52 [gpu_model_runner.py:5150] Model loading took 14.99 GiB memory and 4.51 seconds
(EngineCore pid=77) INFO 11-22 22:18:20 [gpu_worker.py:760] Available KV cache memory: 52.69 GiB
(EngineCore pid=77) INFO 11-22 22:18:20 [kv_cache_utils.py:2327] GPU KV cache size: 431,568 tokens, \
Maximum concurrency for 8,192 tokens per request: 52.68x
"""
# From github.com/vllm-project/vllm/issues/23278 (0.10) and /pull/12569 (0.7).
FAILED_LOG = """\
(EngineCore_0 pid=5839) INFO 08-20 18:04:10 [gpu_model_runner.py:2007] Model loading took 65.9651 GiB and 12.8 seconds
(EngineCore_0 pid=5839) INFO 08-20 18:04:22 [gpu_worker.py:276] Available KV cache memory: -2.14 GiB
(EngineCore_0 pid=5839) ERROR 08-20 18:04:22 [core.py:700] EngineCore failed to start.
ValueError: No available memory for the cache blocks.
"""
OLD_LOG = """\
INFO 01-30 03:18:12 gpu_model_runner.py:848] Model loading took 67.7229 GB and 3 seconds
INFO 01-30 03:19:14 kv_cache_utils.py:398] GPU KV cache size: 22,096 tokens
INFO 01-30 03:19:14 kv_cache_utils.py:398] Maximum concurrency for 2048 tokens per request: 10.79x
"""
# Written by vLLM 0.32 on a CPU, for the shape of tests.engines.fit.tiny.
CPU_LOG = """\
(Worker pid=25116) INFO 11-23 13:15:40 [cpu_worker.py:260] Explicitly set (1.0/23.54) GiB for KV cache on node 0.
(EngineCore pid=25099) INFO 11-23 13:15:40 [kv_cache_utils.py:2327] CPU KV cache size: 2,097,152 tokens, \
Maximum concurrency for 1,024 tokens per request: 2048.00x
"""


@pytest.mark.parametrize(
    ("log", "measured"),
    [
        (GPU_LOG, Measured(int(14.99 * GIB), int(52.69 * GIB), 431_568, 8192, 52.68)),
        (FAILED_LOG, Measured(int(65.9651 * GIB), int(-2.14 * GIB))),
        (OLD_LOG, Measured(int(67.7229 * GIB), None, 22_096, 2048, 10.79)),
        (CPU_LOG, Measured(None, GIB, 2_097_152, 1024, 2048.0)),
        ("", None),
        ("no line of these", None),
        (f"KV cache size: {'9' * 20} tokens", None),
    ],
)
def test_what_the_log_says_was_measured(log, measured):
    assert read_log(log) == measured


def test_the_cpu_vllm_counted_what_is_computed():
    measured, how = read_log(CPU_LOG), CacheSettings(2, 1, 2048)
    assert measured.cache_bytes // needed_bytes(read_shape(CONFIG), 1024, how) == measured.concurrency


def test_of_several_gpus_the_one_with_the_least_room_counts():
    more = "Available KV cache memory: 50.10 GiB\nModel loading took 15.20 GiB memory and 4 seconds\n"
    measured = read_log(GPU_LOG + more)
    assert (measured.cache_bytes, measured.weights_bytes) == (int(50.10 * GIB), int(15.20 * GIB))


@pytest.fixture
def on_gpu(db, engine_in):
    """on_gpu(**columns): an engine that loads and holds a GPU."""

    def make(**columns):
        engine = engine_in(State.LOADING, **{"device": "cuda", "image": "vllm:1", **columns})
        number = Gpu.objects.count()
        gpu = Gpu.objects.create(uuid=f"GPU-{number}", index=number, name="H100", memory_bytes=80 * GIB, seen_at=NOW)
        GpuLease.objects.create(gpu=gpu, engine=engine)
        return engine

    return make


def starts(flags=None, model="acme/tiny", image="vllm:1", revision=""):
    return measures.starts_of(model, {revision}, image, flags or MemoryFlags())


def test_a_start_is_remembered_with_what_it_was(on_gpu):
    measures.record(on_gpu(quantization="fp8"), GPU_LOG, NOW)
    (start,) = starts()
    assert start.measured == read_log(GPU_LOG)
    assert (start.gpu_name, start.gpu_memory_bytes, start.quantization) == ("H100", 80 * GIB, "fp8")
    assert (start.utilization, start.tensor_parallel_size) == (0.92, 1)


def test_the_latest_of_a_kind_stays(on_gpu):
    measures.record(on_gpu(), GPU_LOG, NOW)
    measures.record(on_gpu(), GPU_LOG.replace("52.69", "40.00"), timezone.now())
    (start,) = starts()
    assert start.measured.cache_bytes == 40 * GIB


def test_a_failed_start_does_not_replace_one_that_worked(on_gpu):
    measures.record(on_gpu(), GPU_LOG, NOW)
    measures.record(on_gpu(), FAILED_LOG, timezone.now())
    assert starts()[0].measured.concurrency == 52.68
    measures.record(on_gpu(tensor_parallel_size=2), FAILED_LOG, timezone.now())
    assert len(starts()) == 2


def test_starts_with_other_flags_images_and_models_are_others(on_gpu, setting):
    measures.record(on_gpu(), GPU_LOG, NOW)
    assert starts(model="acme/other") == starts(image="vllm:2") == starts(MemoryFlags(text="--max-num-seqs=9")) == []
    setting(engine_extra_args=["--max-num-seqs=9", "--gpu-memory-utilization", "0.5", "--revision=v1"])
    measures.record(on_gpu(), GPU_LOG, NOW)
    (start,) = starts(MemoryFlags(text="--max-num-seqs=9"), revision="v1")
    assert start.utilization == 0.5


def test_starts_of_another_commit_are_others(on_gpu):
    """Branches of one repository may hold weights of different sizes."""
    measures.record(on_gpu(revision="c0ffee"), GPU_LOG, NOW)
    assert len(starts(revision="c0ffee")) == 1
    assert starts() == []


def test_the_stand_in_engine_measures_nothing(on_gpu):
    measures.record(on_gpu(launcher="simulator"), GPU_LOG, NOW)
    assert not StartMeasure.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestWhileItStarts:
    def test_an_engine_that_becomes_ready_leaves_what_was_measured(self, fake, running, monkeypatch):
        engine = running(State.LOADING)
        fake.containers[engine.container_name].log = CPU_LOG
        monkeypatch.setattr(checking.health, "is_healthy", lambda *_: True)
        monkeypatch.setattr(checking.health, "prove", lambda *_: checking.health.Proof("generate", 1, 1))
        monkeypatch.setattr(checking.health, "served_max_model_len", lambda *_: 1024)
        monkeypatch.setattr(checking.health, "has_chat_template", lambda *_: True)
        checking.check(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.READY
        assert StartMeasure.objects.get().concurrency == 2048.0

    def test_one_that_ends_while_it_loads_does_too(self, fake, running):
        engine = running(State.LOADING)
        container = fake.containers[engine.container_name]
        container.log, container.seen = FAILED_LOG, Observation(Status.EXITED, exit_code=1)
        checking.check(engine.pk)
        assert StartMeasure.objects.get().cache_bytes == int(-2.14 * GIB)

    def test_one_that_ends_later_has_told_already(self, fake, running):
        engine = running(State.READY)
        container = fake.containers[engine.container_name]
        container.log, container.seen = GPU_LOG, Observation(Status.EXITED, exit_code=1)
        checking.check(engine.pk)
        assert not StartMeasure.objects.exists()
