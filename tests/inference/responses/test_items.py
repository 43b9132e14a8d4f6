"""The items of a response: split into turns, kept as they are."""

import json

from inference import responses_items
from tests.fakes.responses import compact


def raws(items):
    return responses_items.of_input(compact(items))


def test_items_are_split_where_somebody_speaks_after_the_model():
    ask, told = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    call, result = {"type": "function_call", "name": "f"}, {"type": "function_call_output", "output": "r"}

    def split(*items):
        return [[json.loads(bytes(raw)) for raw in turn] for turn in responses_items.split(raws(list(items)))]

    assert split() == [[]]
    assert split(ask, ask) == [[ask, ask]]
    assert split(ask, told, ask) == [[ask, told], [ask]]
    assert split(ask, call, result, told, ask, told) == [[ask, call, result, told], [ask, told]]
    assert split(told, ask) == [[told], [ask]]


def test_what_cannot_be_shown_is_still_kept():
    odd = [{"type": "item_reference", "id": "x"}, {"role": "user", "content": [{"type": "input_image"}]}, 5, None]
    turn = responses_items.turn_of(raws(odd))
    assert (turn.prompt, turn.answer) == ("[input_image]", "")
    assert json.loads(turn.items) == odd


def test_lists_are_joined_whatever_their_spaces():
    assert json.loads(responses_items.joined(['[{"a": 1}]', " [ ] ", "[2 , 3]"])) == [{"a": 1}, 2, 3]
    assert responses_items.joined([]) == "[]"
