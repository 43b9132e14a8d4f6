import pytest

# pytest explains failed asserts only in test modules, and in those it is told of before they are imported.
pytest.register_assert_rewrite("tests.engines.launchers.contract")
