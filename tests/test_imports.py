"""The import rules of pyproject.toml hold. A rule on a module that does not exist fails too."""

from importlinter.cli import lint_imports

from vllm_portal.config import PROJECT_ROOT


def test_each_module_imports_only_what_it_may(capsys, monkeypatch):
    monkeypatch.chdir(PROJECT_ROOT)
    monkeypatch.syspath_prepend(str(PROJECT_ROOT))

    code = lint_imports(config_filename=str(PROJECT_ROOT / "pyproject.toml"), no_cache=True)

    assert code == 0, capsys.readouterr().out
