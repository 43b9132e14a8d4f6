"""The docker launcher and images, with a real daemon: those that are there, are pulled, or cannot be had; and what
containers of one leave behind."""

import os
from collections.abc import Iterator

import pytest

from engines.errors import LauncherError, StartFailed
from tests.real.docker_rig import DockerRig, docker
from tests.real.registry import Registry, serve


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as registry:
        yield registry
        docker("rmi", "-f", f"{registry.address}/engine:1", check=False)


def test_an_image_that_is_there_is_not_pulled(rig: DockerRig) -> None:
    said: list[str] = []
    assert not rig.launcher().lacks(rig.spec().image)
    rig.launcher().prepare(rig.spec(), said.append)
    assert said == []


def test_an_image_that_is_not_there_is_pulled_with_progress(rig: DockerRig, registry: Registry) -> None:
    said: list[str] = []
    image = f"{registry.address}/engine:1"
    assert rig.launcher().lacks(image)
    rig.launcher().prepare(rig.spec(image=image), said.append)
    assert not rig.launcher().lacks(image)
    assert docker("image", "inspect", "-f", "{{.RepoTags}}", image) == f"[{image}]"
    assert said
    assert all(line.startswith(f"pulling {image}") for line in said)


def test_an_image_that_does_not_run_here_is_named_so(rig: DockerRig, registry: Registry) -> None:
    launcher, spec = rig.launcher(), rig.spec(image=f"{registry.address}/engine:1")
    launcher.prepare(spec, print)
    with pytest.raises(LauncherError):
        launcher.start(spec)
    launcher.stop(spec.name, 1)
    assert launcher.list() == []


def test_an_image_that_the_registry_does_not_know_is_missing(rig: DockerRig, registry: Registry) -> None:
    with pytest.raises(StartFailed) as caught:
        rig.launcher().prepare(rig.spec(image=f"{registry.address}/other:1"), print)
    assert caught.value.code == "image_missing"
    assert "docker_image" in caught.value.advice


def test_an_image_whose_registry_does_not_answer_may_come_later(rig: DockerRig) -> None:
    with pytest.raises(StartFailed) as caught:
        rig.launcher().prepare(rig.spec(image="127.0.0.1:9/engine:1"), print)
    assert caught.value.code == "registry_unreachable"
    assert "cannot be reached" in str(caught.value)


def test_an_image_that_is_named_by_its_id_is_never_pulled(rig: DockerRig, engine_image: str) -> None:
    identity = docker("image", "inspect", "-f", "{{.Id}}", engine_image)
    rig.launcher().prepare(rig.spec(image=identity), print)
    with pytest.raises(StartFailed) as caught:
        rig.launcher().prepare(rig.spec(image=f"sha256:{'a' * 64}"), print)
    assert (caught.value.code, "by its id" in str(caught.value)) == ("image_missing", True)


def test_a_pull_that_hangs_ends_in_time(rig: DockerRig, registry: Registry) -> None:
    registry.hang()
    with pytest.raises(LauncherError, match="longer than 2 s"):
        rig.launcher(pull_timeout_s=2).prepare(rig.spec(image=f"{registry.address}/engine:1"), print)


def test_what_containers_wrote_as_root_is_removed_by_one_and_nothing_else(rig: DockerRig) -> None:
    precious, folder = rig.folder / "precious", rig.folder / "compiled"
    (folder / "closed" / "deep").mkdir(parents=True)
    precious.mkdir()
    (precious / "file").write_text("mine")
    (folder / "closed" / "deep" / "graph").write_text("compiled")
    (folder / "link").symlink_to(precious)
    (folder / "closed").chmod(0o500)
    for path in (folder, folder / "closed", folder / "closed" / "deep"):
        os.chown(path, 54321, 54321)  # whoever an image runs as
    before = docker("ps", "-aq")
    rig.launcher().empty(str(folder), rig.image)
    rig.launcher().empty(str(folder), rig.image)
    assert list(folder.iterdir()) == []
    assert (precious / "file").read_text() == "mine"
    assert docker("ps", "-aq") == before
    with pytest.raises(StartFailed):
        rig.launcher().empty(str(folder), "vllm-portal-test-absent:1")


def test_a_start_without_the_image_says_that_it_is_missing(rig: DockerRig) -> None:
    with pytest.raises(StartFailed) as caught:
        rig.launcher().start(rig.spec(image="vllm-portal-test-absent:1"))
    assert caught.value.code == "image_missing"
