"""The inventory of GPUs."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from engines import gpus, launching, queueing, reclaiming
from engines.gpus import Found
from engines.models import Engine, Gpu, GpuLease
from engines.states import State
from tests.engines.conftest import NOW

GIB = 2**30
H200 = Found("GPU-a", 0, "NVIDIA H200", 141 * GIB, 61 * GIB, 87, 54, 60 * GIB)


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


class Driver:
    """NVIDIA's library with one GPU. `broken`: the call that fails, and how."""

    NVMLError = NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_DRIVER_NOT_LOADED = 12, 9
    NVML_TEMPERATURE_GPU = 0
    processes = (40 * GIB, 20 * GIB)
    used = 61 * GIB

    def __init__(self, **broken):
        self._broken = broken

    def __getattr__(self, call):
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetUUID": b"GPU-a",
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=141 * GIB, used=self.used),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87, memory=40),
            "nvmlDeviceGetTemperature": 54,
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(usedGpuMemory=held) for held in self.processes],
        }

        def answer(*_):
            if call in self._broken:
                raise NVMLError(self._broken[call])
            return answers.get(call)

        return answer


def test_what_the_driver_says_is_found():
    assert gpus.look(Driver()) == [H200]


@pytest.mark.parametrize("code", [12, 9])
def test_no_driver_is_no_gpu(code):
    assert gpus.look(Driver(nvmlInit=code)) == []


@pytest.mark.parametrize("broken", [{"nvmlInit": 999}, {"nvmlDeviceGetCount": 15}, {"nvmlDeviceGetUUID": 15}])
def test_a_driver_in_trouble_is_not_no_gpu(broken):
    assert gpus.look(Driver(**broken)) is None


def test_a_gpu_without_memory_of_its_own_is_found():
    (found,) = gpus.look(Driver(nvmlDeviceGetMemoryInfo=3))
    assert (found.memory_bytes, found.memory_used_bytes, found.utilization_percent) == (0, None, 87)


@pytest.mark.parametrize(
    ("call", "field"),
    [("nvmlDeviceGetUtilizationRates", "utilization_percent"), ("nvmlDeviceGetTemperature", "temperature_c")],
)
def test_what_a_gpu_does_not_say_is_not_known(call, field):
    (found,) = gpus.look(Driver(**{call: 3}))
    assert found == replace(H200, **{field: None})


@pytest.mark.parametrize(
    ("processes", "held"), [((), 61 * GIB), ((GIB,), GIB), ((GIB, None), 61 * GIB), ((None,), 61 * GIB)]
)
def test_programs_whose_share_is_hidden_may_hold_all_that_is_used(processes, held):
    driver = Driver()
    driver.processes = processes
    (found,) = gpus.look(driver)
    assert found.processes_memory_bytes == held


@pytest.mark.parametrize(("used", "held"), [(11 * GIB, 0), (12 * GIB, 12 * GIB)])
def test_a_gpu_that_tells_nothing_of_its_programs_has_some_if_much_is_used(used, held):
    driver = Driver(nvmlDeviceGetComputeRunningProcesses=3)
    driver.used = used
    (found,) = gpus.look(driver)
    assert found.processes_memory_bytes == held


def test_the_real_library_can_be_asked():
    found = gpus.look()
    assert found is None or all(isinstance(gpu, Found) for gpu in found)


def test_rows_follow_what_is_found(db):
    gpus.refresh(NOW, lambda: [H200])
    gpus.refresh(NOW + timedelta(minutes=1), lambda: [H200])
    gpu = Gpu.objects.get()
    assert (gpu.uuid, gpu.index, gpu.name, gpu.memory_bytes, gpu.present) == (
        "GPU-a", 0, "NVIDIA H200", 141 * GIB, True,
    )  # fmt: skip
    assert gpu.seen_at == NOW + timedelta(minutes=1)
    assert gpu.told == "87 % busy, 61 of 141 GiB, 54 °C"


class TestOtherPrograms:
    def test_on_a_gpu_that_no_engine_holds_they_are_others(self, db):
        gpus.refresh(NOW, lambda: [H200])
        gpu = Gpu.objects.get()
        assert (gpu.foreign_memory_bytes, gpu.is_taken) == (60 * GIB, True)
        gpus.refresh(NOW, lambda: [replace(H200, processes_memory_bytes=GIB)])
        assert not Gpu.objects.get().is_taken  # as much as the settings let pass

    def test_on_one_that_an_engine_holds_they_are_the_engine(self, engine_in):
        gpus.refresh(NOW, lambda: [replace(H200, processes_memory_bytes=0)])
        lease = GpuLease.objects.create(gpu=Gpu.objects.get(), engine=engine_in(State.READY))
        gpus.refresh(NOW, lambda: [H200])
        assert Gpu.objects.get().foreign_memory_bytes == 0

        def engine_ends():
            lease.delete()  # after its processes, which this look still saw
            return [H200]

        gpus.refresh(NOW, engine_ends)
        assert Gpu.objects.get().foreign_memory_bytes == 0

    def test_it_gets_no_engine_and_that_is_said(self, engine_in, fake, client_of, alice):
        other = replace(H200, uuid="GPU-b", index=1, processes_memory_bytes=0)
        gpus.refresh(NOW, lambda: [H200, other])
        first, second = (engine_in(State.QUEUED, device="cuda") for _ in range(2))
        for engine in (first, second):
            launching.launch(engine.pk)
        second.refresh_from_db()
        assert [lease.gpu.uuid for lease in first.gpu_leases.all()] == ["GPU-b"]
        assert second.state == State.QUEUED
        assert second.detail == (
            "waiting for 1 free GPU (0 of 2 are free); programs that are no engines hold memory of GPU 0"
        )
        assert queueing.of([second], NOW)[second.pk].expected_at is None
        assert [gpu.free_slices for gpu in Gpu.objects.all()] == [0, 0]
        (node,) = client_of(alice).get("/api/v1/nodes").json()["results"]
        assert [one["foreign_memory_bytes"] for one in node["gpus"]] == [60 * GIB, 0]
        gpus.refresh(NOW, lambda: [replace(H200, processes_memory_bytes=0), other])
        launching.launch(second.pk)
        assert [lease.gpu.uuid for lease in second.gpu_leases.all()] == ["GPU-a"]

    def test_who_needs_it_holds_up_nobody(self, engine_in, fake):
        other = replace(H200, uuid="GPU-b", index=1, processes_memory_bytes=0)
        gpus.refresh(NOW, lambda: [H200, other])
        large = engine_in(State.QUEUED, device="cuda", tensor_parallel_size=2)
        small, late = (engine_in(State.QUEUED, device="cuda") for _ in range(2))
        places = queueing.of([large, small, late], NOW)
        assert [places[engine.pk] for engine in (small, late, large)] == [(1, NOW), (2, None), (3, None)]
        for engine in (large, small):
            launching.launch(engine.pk)
        large.refresh_from_db()
        assert large.detail == (
            "waiting for 2 free GPUs (1 of 2 are free); programs that are no engines hold memory of GPU 0"
        )
        assert [lease.gpu.uuid for lease in small.gpu_leases.all()] == ["GPU-b"]

    def test_all_being_taken_those_who_wait_keep_their_places(self, engine_in):
        gpus.refresh(NOW, lambda: [H200])
        waiting = [engine_in(State.QUEUED, device="cuda") for _ in range(2)]
        assert sorted(queueing.of(waiting, NOW).values()) == [(1, None), (2, None)]

    OTHER = replace(H200, uuid="GPU-b", index=1, processes_memory_bytes=0)

    @pytest.fixture
    def idle(self, engine_in, setting):
        """An engine that may give way, on the GPU beside the one that others hold."""
        setting(reclaim_idle_minutes=1)
        gpus.refresh(NOW, lambda: [H200, self.OTHER])
        idle = engine_in(State.READY, device="cuda")
        GpuLease.objects.create(gpu=Gpu.objects.get(uuid="GPU-b"), engine=idle)
        Engine.objects.update(used_at=NOW)
        idle.refresh_from_db()
        return idle

    def test_idle_engines_make_room_for_who_can_use_it(self, engine_in, idle):
        engine_in(State.QUEUED, device="cuda", tensor_parallel_size=2)
        engine_in(State.QUEUED, device="cuda")
        assert reclaiming.chosen([idle], NOW + timedelta(hours=1)) == [idle]

    def test_idle_engines_do_not_give_way_for_it(self, engine_in, idle):
        """Both GPUs are wanted, and one of them cannot be had: to stop the engine on the other would help nobody."""
        engine_in(State.QUEUED, device="cuda", tensor_parallel_size=2)
        assert reclaiming.chosen([idle], NOW + timedelta(hours=1)) == []
        gpus.refresh(NOW, lambda: [replace(H200, processes_memory_bytes=0), self.OTHER])
        assert reclaiming.chosen([idle], NOW + timedelta(hours=1)) == [idle]


def test_a_gpu_that_is_gone_keeps_its_row_and_its_lease(engine_in):
    gpus.refresh(NOW, lambda: [H200])
    GpuLease.objects.create(gpu=Gpu.objects.get(), engine=engine_in(State.PLACED))
    gpus.refresh(NOW, lambda: [])
    assert not Gpu.objects.get().present
    assert GpuLease.objects.exists()


def test_a_look_that_failed_changes_nothing(db):
    gpus.refresh(NOW, lambda: [H200])
    gpus.refresh(NOW, lambda: None)
    assert Gpu.objects.get().present
