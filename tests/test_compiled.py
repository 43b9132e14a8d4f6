"""The hot path runs compiled where it can be compiled, from the sources as they are, and as Python elsewhere."""

import os
import shutil
import subprocess
import sys

import pytest

from vllm_portal import compiled, compiling
from vllm_portal.config import PROJECT_ROOT

WHERE = "import django; django.setup(); import inference.front; print(inference.front.__file__)"


def front_of_a_new_process(**environment: str) -> str:
    """The file that a new process of the portal runs its front from."""
    kept = {name: value for name, value in os.environ.items() if name != compiled.SWITCH}
    environment = {**kept, "DJANGO_SETTINGS_MODULE": "vllm_portal.settings", **environment}
    command = [sys.executable, "-c", WHERE]
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The sources of what is compiled, to be changed."""
    for name in ("inference", "vllm_portal", "requirements"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "static"))
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    return tmp_path


def test_what_a_machine_can_compile_it_runs_compiled():
    """`make test` has compiled it, on a machine with a compiler."""
    end = ".py" if compiling.missing() else ".so"
    assert front_of_a_new_process().endswith(end)


def test_it_runs_as_python_where_that_is_wanted():
    assert front_of_a_new_process(**{compiled.SWITCH: "0"}) == str(PROJECT_ROOT / "inference" / "front.py")


@pytest.mark.parametrize("changed", ["inference/front.py", "inference/front.pxd", "requirements/build.txt"])
def test_what_was_compiled_from_other_sources_is_not_used(copy, changed):
    before = compiled.digest()
    path = copy / changed
    path.write_text(path.read_text() + "\n")
    assert compiled.digest() != before


def test_each_file_of_types_is_of_a_module_that_is_compiled():
    types = {path.with_suffix("").relative_to(PROJECT_ROOT) for path in PROJECT_ROOT.glob("inference/**/*.pxd")}
    assert {".".join(path.parts) for path in types} <= set(compiled.MODULES)


def test_without_a_compiler_it_is_said_and_nothing_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    monkeypatch.setattr(compiling, "missing", lambda: "no C compiler (cc)")
    compiling.main()
    assert "not compiled: no C compiler (cc)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_compiled_for_whoever_wants_the_sources_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    monkeypatch.setenv(compiled.SWITCH, "0")
    compiling.main()
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []
