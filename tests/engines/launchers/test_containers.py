"""What a container is asked for, what its state means, what Docker's messages mean: all without a daemon."""

from pathlib import Path
from typing import Any

import pytest

from engines.errors import StartFailed
from engines.launchers.base import LaunchSpec, Status
from engines.launchers.container_config import DockerSettings, container_config, on_host, size
from engines.launchers.container_state import is_portals, is_this_engine, listed, observe
from engines.launchers.docker_failures import pull_failure, start_failure
from engines.launchers.pulling import PullProgress

SPEC = LaunchSpec(
    name="vllm-portal-abc-1", portal_id="p1", engine_id="e1", generation=1, argv=["some/model", "--seed", "1; id"],
    env={"VLLM_NO_USAGE_STATS": "1"}, engine_key="the-key", hf_token="hf_secretsecret", image="vllm/vllm-openai:x",
)  # fmt: skip


def settings(**changes: Any) -> DockerSettings:
    return DockerSettings(**{"portal_id": "p1", "log_dir": Path("/nowhere"), "hf_cache": "cache-volume"} | changes)


def spec(**changes: Any) -> LaunchSpec:
    return LaunchSpec(**{**vars(SPEC), **changes})


def test_arguments_stay_apart_and_the_address_is_the_containers_own() -> None:
    command = container_config(SPEC, settings())["Cmd"]
    assert command == ["some/model", "--seed", "1; id", "--host", "0.0.0.0", "--port", "8000"]


def test_the_key_is_in_the_environment_and_the_token_nowhere() -> None:
    config = container_config(SPEC, settings())
    assert "VLLM_API_KEY=the-key" in config["Env"]
    assert "VLLM_NO_USAGE_STATS=1" in config["Env"]
    assert "hf_secretsecret" not in repr(config)


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"),
    [
        ("cpu", (), {}),
        (
            "cuda",
            ("GPU-1", "GPU-2"),
            {"DeviceRequests": [{"DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu"]]}]},
        ),
        ("cuda", (), {"DeviceRequests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}]}),
    ],
)
def test_gpus_are_asked_for_by_id(device: str, gpus: tuple[str, ...], wanted: dict[str, Any]) -> None:
    host = container_config(spec(device=device, gpu_uuids=gpus), settings())["HostConfig"]
    assert {key: host[key] for key in ("DeviceRequests", "Devices") if key in host} == wanted


def test_rocm_gets_its_devices() -> None:
    host = container_config(spec(device="rocm"), settings())["HostConfig"]
    assert [device["PathOnHost"] for device in host["Devices"]] == ["/dev/kfd", "/dev/dri"]
    assert host["GroupAdd"] == ["video"]


def test_a_volume_needs_no_right_and_a_folder_the_one_to_write_as_another_user() -> None:
    volume = container_config(SPEC, settings())["HostConfig"]
    assert volume["Binds"] == ["cache-volume:/root/.cache/huggingface"]
    assert "CapAdd" not in volume
    folder = container_config(SPEC, settings(hf_cache="~/.cache/hf"))["HostConfig"]
    assert folder["Binds"] == [f"{Path.home()}/.cache/hf/hub:/root/.cache/huggingface/hub"]
    assert folder["CapAdd"] == ["DAC_OVERRIDE"]


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/hf-cache", "/vol/hf/_data"),
        ("/hf-cache/hub", "/vol/hf/_data/hub"),
        ("/hf-cache-of-another", "/hf-cache-of-another"),
        ("/data/compile-cache/7/ab", "/vol/compiled/7/ab"),
        ("/data/models/tiny", "/vol/data/models/tiny"),
        ("/srv/models", "/srv/models"),
    ],
)
def test_a_folder_that_is_a_volume_is_found_where_the_host_has_it(path: str, there: str) -> None:
    mounted = {"/hf-cache/": "/vol/hf/_data", "/data": "/vol/data", "/data/compile-cache": "/vol/compiled/"}
    assert on_host(path, mounted) == there


def test_a_portal_in_a_container_gives_engines_what_it_sees_itself() -> None:
    mounted = {"/hf-cache": "/vol/hf/_data", "/data": "/vol/data"}
    what = spec(compile_cache="/data/compile-cache/7/ab", model_dir="/data/models/tiny")
    host = container_config(what, settings(hf_cache="/hf-cache"), mounted)["HostConfig"]
    assert host["Binds"] == [
        "/vol/hf/_data/hub:/root/.cache/huggingface/hub",
        "/vol/data/compile-cache/7/ab:/var/cache/vllm-portal",
    ]
    (mount,) = host["Mounts"]
    assert (mount["Source"], mount["Target"]) == ("/vol/data/models/tiny", "/data/models/tiny")


def test_a_network_takes_the_place_of_a_published_port() -> None:
    alone = container_config(SPEC, settings())["HostConfig"]
    assert alone["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    shared = container_config(SPEC, settings(network="portal"))["HostConfig"]
    assert shared["NetworkMode"] == "portal"
    assert "PortBindings" not in shared


@pytest.mark.parametrize(
    ("text", "wanted"), [("1g", 2**30), ("512m", 2**29), ("10", 10), ("2 GB", 2**31), ("1K", 1024)]
)
def test_sizes(text: str, wanted: int) -> None:
    assert size(text) == wanted


@pytest.mark.parametrize("setting", [{"shm_size": "much"}, {"memory": "-1g"}, {"memory": "1.5g"}, {"hf_cache": "/a:b"}])
def test_a_setting_that_docker_cannot_use_fails_the_start(setting: dict[str, str]) -> None:
    with pytest.raises(StartFailed) as caught:
        container_config(SPEC, settings(**setting))
    assert caught.value.code == "bad_setting"


# States


def inspected(status: str, **state: Any) -> dict[str, Any]:
    return {
        "Id": "f" * 64,
        "Name": "/vllm-portal-abc-1",
        "State": {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": "", **state},
        "Config": {"Labels": {"vllm-portal.portal": "p1", "vllm-portal.engine": "e1", "vllm-portal.generation": "1"}},
        "HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
        "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "49153"}]}},
    }


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("running", Status.RUNNING),
        ("exited", Status.EXITED),
        ("dead", Status.EXITED),
        *[(other, Status.UNKNOWN) for other in ("created", "paused", "restarting", "removing", "something new")],
    ],
)
def test_what_is_neither_running_nor_ended_is_unknown(status: str, wanted: Status) -> None:
    assert observe(inspected(status)).status is wanted


def test_a_running_container_without_its_port_yet_is_unknown() -> None:
    container = inspected("running")
    container["NetworkSettings"] = {"Ports": {}}
    assert observe(container).status is Status.UNKNOWN


def test_a_running_container_tells_its_images_id() -> None:
    digest = f"sha256:{'a' * 64}"
    assert observe(inspected("running") | {"Image": digest}).image_digest == digest


def test_an_end_has_its_code_and_cause() -> None:
    observation = observe(inspected("exited", ExitCode=137, OOMKilled=True, Error="of Docker's"))
    assert (observation.exit_code, observation.oom_killed, observation.message) == (137, True, "of Docker's")
    assert observation.port is None


def test_whose_it_is_is_said_by_labels_alone() -> None:
    container = inspected("running")
    assert is_portals(container, "p1")
    assert is_this_engine(container, SPEC)
    for change in ({"portal_id": "p2"}, {"engine_id": "e2"}, {"generation": 2}):
        assert not is_this_engine(container, spec(**change))
    container["Config"]["Labels"] = None
    assert not is_portals(container, "p1")


@pytest.mark.parametrize("labels", [None, {}, {"vllm-portal.engine": "e"}, {"vllm-portal.generation": "x"}])
def test_a_container_with_half_its_labels_is_not_listed(labels: dict[str, str] | None) -> None:
    assert listed({"Names": ["/a"], "State": "running", "Labels": labels}) is None


# Messages, as Docker 20.10 and 28 write them


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "no_gpu_runtime"),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown", "no_gpu_runtime"),
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.9, please update your driver to "
            "a newer version, or use an earlier cuda container: unknown",
            "driver_too_old",
        ),
        ('error gathering device information while adding custom device "/dev/kfd": no such file', "no_gpu_runtime"),
        ("No such image: vllm/vllm-openai:x", "image_missing"),
        ("network portal not found", "no_network"),
        ("invalid mount config for type bind: bind source path does not exist: /m", "no_model_folder"),
        ('exec: "vllm": executable file not found in $PATH: unknown', "image_unusable"),
        ("write /var/lib/docker/x: no space left on device", "disk_full"),
    ],
)
def test_a_failed_start_has_a_cause_and_an_advice(message: str, code: str) -> None:
    failure = start_failure(message, "vllm/vllm-openai:x")
    assert failure is not None
    assert failure.code == code
    assert failure.advice


def test_a_failure_that_no_change_of_the_engine_cures_is_none() -> None:
    assert start_failure("driver failed programming external connectivity: port is already allocated", "i") is None
    assert pull_failure("unexpected end of JSON input", "i") is None


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            "image_missing",
            "there is no image",
        ),
        ("manifest for x:y not found: manifest unknown: manifest unknown", "image_missing", "there is no image"),
        (
            "Get https://registry-1.docker.io/v2/: dial tcp: lookup registry-1.docker.io: no such host",
            "registry_unreachable",
            "cannot be reached",
        ),
        (
            "Get http://127.0.0.1:9/v2/: dial tcp 127.0.0.1:9: connect: connection refused",
            "registry_unreachable",
            "cannot be reached",
        ),
    ],
)
def test_an_image_that_does_not_come_is_missing_or_nobody_could_be_asked(message: str, code: str, says: str) -> None:
    failure = pull_failure(message, "vllm/vllm-openai:x")
    assert failure is not None
    assert (failure.code, says in str(failure)) == (code, True)


def test_a_pull_is_told_in_layers_and_bytes() -> None:
    progress = PullProgress("image:1")
    assert progress.line() == "pulling image:1"
    for message in (
        {"status": "Pulling from library/image", "id": "1"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "a"},
        {"status": "Already exists", "progressDetail": {}, "id": "b"},
        {"status": "Downloading", "progressDetail": {"current": 1_234_000_000, "total": 2e9}, "id": "a"},
        {"status": "Retrying in 3 seconds", "progressDetail": {}, "id": "c"},
        {"status": "Digest: sha256:1234"},
    ):
        progress.add(message)
    assert progress.line() == "pulling image:1: 1 of 3 layers, 1.2 GB"
    progress.add({"status": "Pull complete", "progressDetail": {}, "id": "a"})
    assert progress.line() == "pulling image:1: 2 of 3 layers, 1.2 GB"
