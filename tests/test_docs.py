"""The documents tell the truth: what they name exists, and what exists is named."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from vllm_portal.config import PROJECT_ROOT, Config

DOCUMENTS = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
README, OPERATIONS = PROJECT_ROOT / "README.md", PROJECT_ROOT / "docs" / "operations.md"
LONGEST_FILE = 350  # lines of Python; a longer one does two things
TOP = {path.name for path in PROJECT_ROOT.iterdir()}


def code_spans(text):
    """What stands between backticks, and each line of the fenced and of the indented blocks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .+$", rest, flags=re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", rest) + indented + [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_make_target_that_is_named_exists(path):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    named = {match for span in code_spans(path.read_text()) for match in re.findall(r"\bmake ([a-z][a-z-]*)", span)}

    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_path_that_is_named_exists(path):
    spans = [span.strip() for span in code_spans(path.read_text())]
    words = {word.rstrip(",;:)") for span in spans for word in span.split()}
    ours = {word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", word) and word.split("/")[0] in TOP}

    assert [word for word in ours if not (PROJECT_ROOT / word).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_link_inside_the_repository_leads_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())

    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_setting_that_is_named_exists(path):
    names = set(re.findall(r"\bPORTAL_([A-Z_]+)\b", path.read_text()))

    assert {name for name in names if name.lower() not in Config.model_fields} <= {"CONFIG", "URL", "KEY"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_management_command_that_is_named_exists(path):
    from django.core.management import get_commands

    named = {match for span in code_spans(path.read_text()) for match in re.findall(r"manage\.py ([a-z_]+)", span)}

    assert named <= set(get_commands())


def test_each_target_is_in_the_help():
    text = (PROJECT_ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.+)$", text, flags=re.MULTILINE)[1].split())

    # Without what a `make test` around this hands on to a make within.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    said = subprocess.run(
        ["make", "help"], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True
    )

    assert {line.split()[0] for line in said.stdout.splitlines()} == phony


def test_no_file_is_longer_than_one_can_keep_in_mind():
    folders = ("accounts", "engines", "inference", "vllm_portal", "bench")
    files = [
        path for folder in folders for path in (PROJECT_ROOT / folder).rglob("*.py") if "migrations" not in path.parts
    ]

    lengths = {str(path.relative_to(PROJECT_ROOT)): len(path.read_text().splitlines()) for path in files}

    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


# docker-compose.yml

COMPOSE = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())


def test_compose_sets_only_settings_that_exist():
    names = {name for service in COMPOSE["services"].values() for name in service.get("environment", {})}

    settings = {name.removeprefix("PORTAL_").lower() for name in names if name.startswith("PORTAL_")}
    assert settings <= set(Config.model_fields)


def test_the_docker_socket_is_in_the_worker_alone():
    holders = [name for name, service in COMPOSE["services"].items() if "docker.sock" in str(service.get("volumes"))]

    assert holders == ["worker"]


def test_engines_reach_neither_database_nor_redis():
    engines = COMPOSE["services"]["worker"]["environment"]["PORTAL_DOCKER_NETWORK"]
    (network,) = [name for name, network in COMPOSE["networks"].items() if (network or {}).get("name") == engines]

    assert [name for name in ("postgres", "redis") if network in COMPOSE["services"][name]["networks"]] == []


NEEDED = ("PORTAL_ADMIN_PASSWORD", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "DOCKER_GID")
# CI has it; on a machine of one's own it may be missing.
needs_docker_compose = pytest.mark.skipif(
    shutil.which("docker-compose") is None and not os.environ.get("CI"), reason="docker-compose is missing"
)


def compose_config(files, names):
    command = ["docker-compose", *(part for file in files for part in ("-f", file)), "config", "--quiet"]
    variables = {"PATH": os.defpath, **dict.fromkeys(names, "1")}
    return subprocess.run(
        command, cwd=PROJECT_ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


@needs_docker_compose
@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]])
def test_docker_compose_accepts_the_file(files):
    done = compose_config(files, NEEDED)

    assert done.returncode == 0, done.stderr


@needs_docker_compose
@pytest.mark.parametrize("name", NEEDED)
def test_docker_compose_refuses_to_go_without(name):
    done = compose_config(["docker-compose.yml"], set(NEEDED) - {name})

    assert done.returncode != 0
    assert name in done.stderr
