"""What the fuzzer starts from, and each input that once broke a claim, without the fuzzer."""

import pytest

from tests.fuzz.targets import TARGETS
from vllm_portal.config import PROJECT_ROOT

CORPUS = PROJECT_ROOT / "tests" / "fuzz" / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_each_claim_holds_for_each_input_that_is_kept(name):
    inputs = sorted((CORPUS / name).iterdir())
    assert len(inputs) > 3
    for path in inputs:
        TARGETS[name](path.read_bytes())
