"""The import rules of pyproject.toml hold (a rule on a module that does not exist fails too), and nobody waits for what
is not needed."""

import subprocess
import sys

from vllm_portal.config import PROJECT_ROOT, environment


def test_each_module_imports_only_what_it_may():
    """In a process of its own: the checker sets up logging as it likes."""
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_worker_comes_back_without_what_only_pages_need():
    """Whoever dies is missed for as long as its imports take."""
    start = "import sys; from vllm_portal.celery import app; app.loader.import_default_modules(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=PROJECT_ROOT, env=environment(CELERY_SKIP_CHECKS="1"),
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    imported = set(done.stdout.split())
    assert "engines.tasks" in imported
    assert imported.isdisjoint({"vllm_portal.urls", "accounts.admin", "unfold.admin", "rest_framework.views"})
