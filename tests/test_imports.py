"""The import rules of pyproject.toml hold. A rule on a module that does not exist fails too."""

import subprocess
import sys

from vllm_portal.config import PROJECT_ROOT


def test_each_module_imports_only_what_it_may():
    """In a process of its own: the checker sets up logging as it likes."""
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
