from tests.attack.fail_points.took import pytest_configure, pytest_terminal_summary  # noqa: F401
