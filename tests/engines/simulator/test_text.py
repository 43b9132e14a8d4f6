"""What the stand-in says and how it is counted, without a process."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from engines.simulator import answers, tokens
from engines.simulator.answers import Sampling, make_answer
from tests.engines.simulator_process import (
    run_to_end,
)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_text_is_its_tokens_joined(text):
    assert "".join(tokens.split(text)) == text
    assert tokens.decode(tokens.encode(text)) == text
    assert len(tokens.encode(text)) == tokens.count_prompt(text)


def test_ids_are_integers_that_json_keeps():
    assert max(tokens.encode("Hello_world, 😀\0 é")) < 2**53
    assert tokens.VOCABULARY_SIZE < 2**53


def test_a_chat_costs_two_tokens_a_message_and_one_for_the_answer():
    history = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Yes"}]
    assert tokens.count_prompt(history) == (2 + 2) + (2 + 1) + 1


def test_parts_of_a_message_count_as_one_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert tokens.count_prompt([{"role": "user", "content": parts}]) == tokens.count_prompt(
        [{"role": "user", "content": "one\ntwo"}]
    )


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(1, 300), st.booleans())
def test_an_answer_has_as_many_tokens_as_its_text(said, max_tokens, ignore_eos):
    answer = make_answer(said, Sampling(max_tokens, ignore_eos=ignore_eos))
    assert tokens.count_prompt(answer.content) == len(answer.pieces) <= max_tokens
    assert answer.content.startswith(answers.SIMULATED[: len(answer.content)])
    if answer.finish_reason == "stop":
        assert answers.NATURAL_MINIMUM <= len(answer.pieces) <= answers.NATURAL_MAXIMUM
    else:
        assert len(answer.pieces) == max_tokens


def test_the_first_complete_stop_string_cuts_the_answer():
    answer = make_answer("Hi", Sampling(100, stop=("run", "simulated")))
    assert (answer.content, answer.finish_reason, answer.stop_reason) == ("This is a ", "stop", "simulated")
    assert len(answer.pieces) == tokens.count_prompt("This is a simulated")
    kept = make_answer("Hi", Sampling(100, stop=("run", "simulated"), include_stop=True))
    assert kept.content == "This is a simulated"


def test_a_stop_string_counts_only_after_min_tokens():
    answer = make_answer("Hi", Sampling(100, min_tokens=6, stop=("simulated", "model")))
    assert answer.stop_reason == "model"


def test_it_needs_neither_django_nor_the_rest_of_the_project():
    code = (
        "import sys, engines.simulator.__main__\n"
        "own = [name for name in sys.modules if name.split('.')[0] in "
        "('django', 'accounts', 'inference', 'vllm_portal', 'celery', 'docker')\n"
        "       or name.startswith('engines.') and not name.startswith('engines.simulator')]\n"
        "print(own)"
    )
    assert run_to_end([sys.executable, "-c", code]).stdout.strip() == "[]"
