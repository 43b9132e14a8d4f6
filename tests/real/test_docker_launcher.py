"""The docker launcher, with a real daemon. Fails without one."""

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from engines.errors import StartFailed
from engines.launchers.base import LaunchSpec, Observation, Status
from engines.launchers.container_config import LABEL_ENGINE, LABEL_GENERATION, LABEL_PORTAL
from engines.launchers.docker import daemon_answers
from engines.vllm_command import CONTAINER_COMPILE_CACHE, CONTAINER_HF_CACHE
from tests.engines.launchers.contract import HF_TOKEN, LauncherContract, ask, ended
from tests.real.docker_rig import FAKE_IMAGE, DockerRig, build, docker, inspect
from tests.waiting import wait_until

LAB = Path(__file__).with_name("lab")
LABEL_TEST = "vllm-portal.test"


def test_a_daemon_answers() -> None:
    assert daemon_answers(os.environ)


class TestDockerLauncher(LauncherContract):
    pass


# What an engine may and sees


def test_an_engine_has_no_right_that_it_does_not_need(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(memory="512m", pids_limit=128, shm_size="300m"), rig.spec()
    ask(launcher.start(spec))
    status = docker("exec", spec.name, "cat", "/proc/1/status")
    seen = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(seen["CapEff"], 16) == int(seen["CapBnd"], 16) == 1 << 1, "CAP_DAC_OVERRIDE alone"
    assert seen["NoNewPrivs"] == "1"
    host = inspect(spec.name)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 512 * 2**20
    assert (host["PidsLimit"], host["ShmSize"], host["IpcMode"]) == (128, 300 * 2**20, "private")
    assert host["RestartPolicy"]["Name"] == "no"
    assert not host["Privileged"]


def test_it_is_published_on_this_machine_alone(rig: DockerRig) -> None:
    spec = rig.spec()
    observation = rig.launcher().start(spec)
    published = inspect(spec.name)["NetworkSettings"]["Ports"]
    assert published == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(observation.port)}]}
    assert observation.host == "127.0.0.1"


def test_on_a_network_of_its_own_nothing_is_published(rig: DockerRig) -> None:
    network = f"{rig.portal_id}-net"
    docker("network", "create", "--internal", network)
    try:
        spec = rig.spec()
        observation = rig.launcher(network=network).start(spec)
        assert (observation.host, observation.port) == (spec.name, 8000)
        seen = inspect(spec.name)["NetworkSettings"]
        assert not any(seen["Ports"].values())
        assert list(seen["Networks"]) == [network]
        ask(Observation(Status.RUNNING, host=seen["Networks"][network]["IPAddress"], port=8000))
        rig.launcher(network=network).stop(spec.name, 5)
    finally:
        rig.end_all()
        docker("network", "rm", network)


def test_a_network_that_is_not_there_is_named_and_nothing_is_left(rig: DockerRig) -> None:
    with pytest.raises(StartFailed) as caught:
        rig.launcher(network="no-such-network").start(rig.spec())
    assert caught.value.code == "no_network"
    assert rig.launcher().list() == []


def test_the_cache_of_another_user_can_be_written_but_shows_no_token(rig: DockerRig) -> None:
    hub = rig.folder / "hf" / "hub"
    hub.mkdir(parents=True)
    (rig.folder / "hf" / "token").write_text("hf_theOperatorsOwn")
    os.chown(hub, 12345, 12345)
    hub.chmod(0o755)
    spec = rig.spec()
    seen = ask(rig.launcher().start(spec))
    assert seen["writable_cache"]
    assert "theOperatorsOwn" not in docker("exec", spec.name, "sh", "-c", "grep -r hf_ /root/.cache || true")


def test_a_volume_can_be_the_cache(rig: DockerRig) -> None:
    volume = f"{rig.portal_id}-cache"
    try:
        ask(rig.launcher(hf_cache=volume).start(spec := rig.spec()))
        mounts = [(mount["Type"], mount.get("Name"), mount["Destination"]) for mount in inspect(spec.name)["Mounts"]]
        assert mounts == [("volume", volume, "/root/.cache/huggingface")]
    finally:
        rig.end_all()
        docker("volume", "rm", volume)


def test_a_portal_in_a_container_shares_its_volumes_with_engines(rig: DockerRig) -> None:
    """It has them at folders of its own; engines get the same, and of what is compiled only their own part."""
    cache, compiled = f"{rig.portal_id}-cache", f"{rig.portal_id}-compiled"
    at = {"/hf-cache": cache, "/data/compile-cache": compiled}
    try:
        volumes = [part for folder, volume in at.items() for part in ("-v", f"{volume}:{folder}")]
        made = "cd /data/compile-cache; mkdir -p 7/ab /hf-cache/hub; echo its > /hf-cache/hub/model; echo no > other"
        docker("run", "--rm", *volumes, "--entrypoint", "sh", rig.image, "-c", made)
        spec = rig.spec(compile_cache="/data/compile-cache/7/ab")
        seen = ask(rig.launcher(hf_cache="/hf-cache", volumes=at).start(spec))
        assert seen["writable_cache"]
        mine = f"{CONTAINER_COMPILE_CACHE}/x"
        within = f"cat {CONTAINER_HF_CACHE}/hub/model; echo mine > {mine}; cat {mine}"
        assert docker("exec", spec.name, "sh", "-c", within) == "its\nmine"
        assert "other" not in docker("exec", spec.name, "ls", CONTAINER_COMPILE_CACHE)
        read = docker("run", "--rm", *volumes, "--entrypoint", "cat", rig.image, "/data/compile-cache/7/ab/x")
        assert read == "mine"
        with pytest.raises(StartFailed, match="no volume elsewhere"):
            rig.launcher(volumes={"/data": "elsewhere"}).start(rig.spec())
    finally:
        rig.end_all()
        docker("volume", "rm", cache, compiled)


def test_a_local_model_is_there_under_its_own_path_and_read_only(rig: DockerRig) -> None:
    model = rig.folder / "my model"
    model.mkdir(mode=0o700)
    (model / "config.json").write_text("{}")
    spec = rig.spec(argv=[str(model)], model_dir=str(model))
    rig.launcher().start(spec)
    assert docker("exec", spec.name, "cat", f"{model}/config.json") == "{}"
    assert (
        "Read-only"
        in subprocess.run(
            ["docker", "exec", spec.name, "touch", f"{model}/x"], capture_output=True, text=True, timeout=30
        ).stderr
    )


def test_a_local_model_that_docker_does_not_see_is_named(rig: DockerRig) -> None:
    with pytest.raises(StartFailed) as caught:
        rig.launcher().start(rig.spec(model_dir=str(rig.folder / "absent")))
    assert caught.value.code == "no_model_folder"


def test_the_token_is_readable_for_an_image_that_does_not_run_as_root(rig: DockerRig, tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {rig.image}\nUSER 1234\n")
    build(f"{FAKE_IMAGE}-user", folder)
    try:
        seen = ask(rig.launcher().start(rig.spec(image=f"{FAKE_IMAGE}-user", hf_token=HF_TOKEN)))
        assert seen["token"] == HF_TOKEN
    finally:
        rig.end_all()
        docker("rmi", "-f", f"{FAKE_IMAGE}-user")


# GPUs


@pytest.mark.parametrize("gpus", [(), ("GPU-1111",)])
def test_without_a_gpu_runtime_that_is_the_cause_and_nothing_is_left(rig: DockerRig, gpus: tuple[str, ...]) -> None:
    if "nvidia" in docker("info", "-f", "{{.Runtimes}}"):
        pytest.skip("this machine has an NVIDIA runtime")
    with pytest.raises(StartFailed) as caught:
        rig.launcher().start(rig.spec(device="cuda", gpu_uuids=gpus))
    assert caught.value.code == "no_gpu_runtime"
    assert "NVIDIA Container Toolkit" in caught.value.advice
    assert rig.launcher().list() == []


def test_without_a_rocm_driver_that_is_the_cause(rig: DockerRig) -> None:
    if Path("/dev/kfd").exists():
        pytest.skip("this machine has a ROCm driver")
    with pytest.raises(StartFailed) as caught:
        rig.launcher().start(rig.spec(device="rocm"))
    assert caught.value.code == "no_gpu_runtime"


# How engines end, and states in between


def test_an_engine_that_takes_too_much_memory_is_seen_as_such(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(memory="64m"), rig.spec(env={"FAKE_MEMORY_MB": "300"})
    launcher.start(spec)
    observation = ended(launcher, spec.name)
    assert observation.oom_killed
    assert observation.exit_code == 137


def test_a_paused_engine_is_unknown_and_can_be_stopped(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    ask(launcher.start(spec))
    docker("pause", spec.name)
    observation = launcher.poll(spec.name)
    assert observation.status is Status.UNKNOWN
    assert "paused" in observation.message
    launcher.stop(spec.name, 1)
    assert launcher.poll(spec.name).status is Status.GONE


def made_by_a_starter_that_died(rig: DockerRig, spec: LaunchSpec) -> None:
    docker(
        "create", "--name", spec.name, "-p", "127.0.0.1::8000", "-e", "HF_TOKEN_PATH=/run/secrets/hf_token",
        "--label", f"{LABEL_PORTAL}={spec.portal_id}", "--label", f"{LABEL_ENGINE}={spec.engine_id}",
        "--label", f"{LABEL_GENERATION}={spec.generation}",
        spec.image, *spec.argv, "--host", "0.0.0.0", "--port", "8000",
    )  # fmt: skip


def test_a_container_whose_starter_died_is_started_with_its_token(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(hf_token=HF_TOKEN)
    made_by_a_starter_that_died(rig, spec)
    assert launcher.poll(spec.name).status is Status.UNKNOWN
    assert [found.status for found in launcher.list()] == [Status.UNKNOWN]
    assert ask(launcher.start(spec))["token"] == HF_TOKEN


def test_a_container_that_never_ran_can_be_stopped(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    made_by_a_starter_that_died(rig, spec)
    launcher.stop(spec.name, 1)
    assert launcher.list() == []


def test_a_container_without_labels_is_nobodys_and_lives_on(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    docker("run", "-d", "--name", spec.name, "--label", LABEL_TEST, "--entrypoint", "sleep", rig.image, "600")
    try:
        assert launcher.poll(spec.name).status is Status.GONE
        launcher.stop(spec.name, 0)
        with pytest.raises(StartFailed) as caught:
            launcher.start(spec)
        assert caught.value.code == "name_taken"
        assert rig.is_alive(spec.name)
    finally:
        docker("rm", "-f", spec.name)


def test_an_engine_that_somebody_removed_is_gone(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(), rig.spec()
    launcher.start(spec)
    docker("rm", "-f", spec.name)
    assert launcher.poll(spec.name).status is Status.GONE
    launcher.stop(spec.name, 1)


def test_a_long_log_is_bounded_by_docker(rig: DockerRig) -> None:
    launcher, spec = rig.launcher(), rig.spec(env={"FAKE_LOG_BYTES": "45000000"})
    ask(launcher.start(spec))
    log = launcher.logs(spec.name)
    assert log.endswith("fake engine: listening\n")
    assert len(log) < 210_000
    launcher.stop(spec.name, 5)
    assert sum(path.stat().st_size for path in (rig.folder / "logs").iterdir()) < 9 * 2**20


# Figures, and the real thing


def test_how_long_a_start_takes(rig: DockerRig, capsys: pytest.CaptureFixture[str]) -> None:
    launcher, seconds = rig.launcher(), []
    for _ in range(9):
        spec = rig.spec(hf_token=HF_TOKEN)
        began = time.monotonic()
        launcher.prepare(spec, print)
        assert launcher.start(spec).status is Status.RUNNING
        seconds.append(time.monotonic() - began)
        launcher.stop(spec.name, 1)
    with capsys.disabled():
        print(f"\ndocker start: p50 {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s")


def test_a_real_vllm_comes_up_under_these_limits_and_goes_in_good_order(rig: DockerRig, engine_image: str) -> None:
    model = rig.folder / "tiny"
    model.mkdir()
    docker(
        "run", "--rm", "--network", "none", "-v", f"{LAB}:/lab:ro", "-v", f"{model}:/out", "--entrypoint",
        "/opt/vllm/bin/python", engine_image, "/lab/make_tiny_model.py", "/out",
    )  # fmt: skip
    launcher = rig.launcher()
    spec = rig.spec(
        image=engine_image,
        argv=[str(model), "--served-model-name", "tiny", "--max-model-len", "512", "--enforce-eager"],
        env={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        model_dir=str(model),
    )
    observation = launcher.start(spec)
    sizes = {launcher.log_size(spec.name)}

    def serves() -> bool:
        sizes.add(launcher.log_size(spec.name))
        assert launcher.poll(spec.name).status is Status.RUNNING, launcher.logs(spec.name)
        return "Application startup complete" in launcher.logs(spec.name)

    wait_until(serves, "vLLM serves", seconds=240)
    assert len(sizes) > 3, "the log's size is a sign of life"
    assert launcher.start(spec) == observation
    began = time.monotonic()
    launcher.stop(spec.name, 30)
    assert time.monotonic() - began < 25, "it did not end by itself"
    assert "Application startup complete" in launcher.logs(spec.name)
