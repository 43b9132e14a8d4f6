"""What a measurement is worth is found out, and a peer that is not there is said to be missing."""

import pytest

from bench import measuring, peers
from bench.compare import ANSWERS
from bench.gateway import Gateway, Keys
from bench.programs import PROMPT_TOKENS, Usage

MODE = ANSWERS._replace(max_tokens=5)
LOAD = {"requests": 10, "chunks": 0, "errors": {"closed": 0, "total": 0}, "first_error": None}
RIGHT = Usage(10, 10 * PROMPT_TOKENS, 50)


class Scripted(measuring.Bench):
    """Measures nothing: of the loads that count each looks up as many keys as `script` says."""

    def __init__(self, script):
        self.script = list(script)

    def measure(self, gateway, mode, connections, seconds, requests=None, compare=False):
        looked_up = 0 if requests else self.script.pop(0)
        return measuring.Measurement(gateway.name, mode, connections, seconds, LOAD, {}, [], looked_up)


@pytest.mark.parametrize(("script", "counts", "left"), [([0, 7], 0, [7]), ([3, 0, 7], 0, [7]), ([3, 1, 2, 7], 1, [7])])
def test_a_load_in_which_keys_were_looked_up_is_repeated(script, counts, left, tmp_path):
    bench = Scripted(script)

    measured = bench.measure_warm(Gateway("portal", 1, Keys.make(tmp_path, 3, 2).used), MODE, 1, 1)
    assert (measured.looked_up, bench.script) == (counts, left)


@pytest.mark.parametrize(
    ("load", "counted", "problem"),
    [
        (LOAD, RIGHT, None),
        (LOAD, RIGHT._replace(generated_tokens=49), "the ledger counted"),
        ({**LOAD, "errors": {"closed": 1, "total": 1}}, RIGHT, "errors {'closed': 1}"),
        ({**LOAD, "requests": 0}, Usage(0, 0, 0), "no request was answered"),
    ],
)
def test_a_difference_is_a_problem(load, counted, problem):
    said = measuring._problems(MODE, load, {"ledger": counted})

    assert said == [] if problem is None else (len(said) == 1 and problem in said[0])


def test_requests_bring_keys_that_the_gateway_knows(tmp_path):
    keys = Keys.make(tmp_path, 10, 4)

    known, used = keys.known.read_text().split(), keys.used.read_text().split()
    assert (len(set(known)), len(used), set(used) <= set(known)) == (10, 4, True)


def test_a_peer_that_cannot_be_installed_is_missing(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(peers, "INSTALLED", file)  # in which no folder can be made

    with pytest.raises(peers.Missing, match=r"nginx cannot be installed: .+"):
        peers.Peer("nginx").install()


def test_settings_of_a_peer_are_filled_in(tmp_path):
    place = peers.Place(tmp_path, 1234, 5678, "bench", Keys.make(tmp_path, 3, 2))

    peers.nginx(place)
    peers.litellm(place)
    written = (tmp_path / "nginx.conf").read_text() + (tmp_path / "litellm.yaml").read_text()
    assert "@" not in written
    assert all(text in written for text in ("127.0.0.1:1234", "127.0.0.1:5678", "hosted_vllm/bench", "master_key: sk-"))
    assert (tmp_path / "keys.map").read_text().count("Bearer sk-") == 3
