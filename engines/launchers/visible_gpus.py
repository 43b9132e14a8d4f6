"""Which GPUs a process may see, as environment variables."""

import shutil
import subprocess
from collections.abc import Mapping

from engines.launchers.base import LaunchSpec

NVIDIA_SMI_SECONDS = 10


def visible_gpus(spec: LaunchSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for spec.gpu_uuids; none where there are no GPUs to choose among.

    CUDA takes UUIDs, but vLLM up to 0.20 reads each entry as a number and dies of anything else. So UUIDs become the
    driver's numbers where nvidia-smi knows them, in the driver's order, which is not CUDA's own.
    """
    if not spec.gpu_uuids or spec.device == "cpu":
        return {}
    if spec.device == "rocm":
        return {"ROCR_VISIBLE_DEVICES": ",".join(spec.gpu_uuids)}
    numbers = _numbers(environment)
    known = all(uuid in numbers for uuid in spec.gpu_uuids)
    devices = [numbers[uuid] for uuid in spec.gpu_uuids] if known else list(spec.gpu_uuids)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(devices)}


def _numbers(environment: Mapping[str, str]) -> dict[str, str]:
    """UUID -> number of each NVIDIA GPU; empty where nvidia-smi is missing or does not answer."""
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return {}
    try:
        answer = subprocess.run(
            [program, "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True, env=dict(environment),
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.split(",") for line in answer.splitlines())
    return {pair[1].strip(): pair[0].strip() for pair in pairs if len(pair) == 2}
