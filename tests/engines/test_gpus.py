"""The inventory of GPUs."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from engines import gpus
from engines.gpus import Found
from engines.models import Gpu, GpuLease
from engines.states import State
from tests.engines.conftest import NOW

H200 = Found("GPU-a", 0, "NVIDIA H200", 141 * 2**30)


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


class Driver:
    """NVIDIA's library with one GPU. `broken`: the call that fails, and how."""

    NVMLError = NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_DRIVER_NOT_LOADED = 12, 9

    def __init__(self, **broken):
        self._broken = broken

    def __getattr__(self, call):
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetUUID": b"GPU-a",
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=141 * 2**30),
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
    assert gpus.look(Driver(nvmlDeviceGetMemoryInfo=3)) == [Found("GPU-a", 0, "NVIDIA H200", 0)]


def test_the_real_library_can_be_asked():
    found = gpus.look()
    assert found is None or all(isinstance(gpu, Found) for gpu in found)


def test_rows_follow_what_is_found(db):
    gpus.refresh(NOW, [H200])
    gpus.refresh(NOW + timedelta(minutes=1), [H200])
    gpu = Gpu.objects.get()
    assert (gpu.uuid, gpu.index, gpu.name, gpu.memory_bytes, gpu.present) == (
        "GPU-a", 0, "NVIDIA H200", 141 * 2**30, True,
    )  # fmt: skip
    assert gpu.seen_at == NOW + timedelta(minutes=1)


def test_a_gpu_that_is_gone_keeps_its_row_and_its_lease(engine_in):
    gpus.refresh(NOW, [H200])
    GpuLease.objects.create(gpu=Gpu.objects.get(), engine=engine_in(State.PLACED))
    gpus.refresh(NOW, [])
    assert not Gpu.objects.get().present
    assert GpuLease.objects.exists()


def test_a_look_that_failed_changes_nothing(db):
    gpus.refresh(NOW, [H200])
    gpus.refresh(NOW, None)
    assert Gpu.objects.get().present
