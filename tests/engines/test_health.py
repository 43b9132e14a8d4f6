"""Whether an engine answers: the stand-in, and servers that nobody would want."""

import json
import socket
import threading
import time

import pytest

from engines import health
from engines.health import Address, Proof
from tests.engines.simulator_process import SimulatorProcess


def engine(*flags, model="acme/tiny", key="k"):
    return SimulatorProcess(*flags, model=model, env={"VLLM_API_KEY": key})


def address(process, key="k", model="acme/tiny"):
    return Address("127.0.0.1", process.port, key, model)


def test_a_real_answer_is_proof_and_says_what_it_cost():
    with engine("--max-model-len", "2048").ready() as process:
        assert health.is_healthy("127.0.0.1", process.port)
        proof = health.prove(address(process))
        assert (proof.task, proof.prompt_tokens, proof.generated_tokens) == ("generate", *process.tokens())
        assert proof.generated_tokens == 1
        assert health.served_max_model_len(address(process)) == 2048
        assert health.has_chat_template(address(process))


def test_an_embedding_engine_proves_itself_by_a_vector():
    with engine("--runner", "pooling").ready() as process:
        proof = health.prove(address(process))
        assert (proof.task, proof.generated_tokens) == ("embed", 0)
        assert proof.prompt_tokens == process.tokens()[0] > 0


def test_a_model_without_a_chat_template_is_found_out():
    with engine("--simulate-no-chat-template").ready() as process:
        assert not health.has_chat_template(address(process))


@pytest.mark.parametrize(
    ("flags", "options", "why"),
    [
        ((), {"key": "wrong"}, "401"),
        ((), {"model": "acme/other"}, "404"),
        (("--simulate-status", "500"), {}, "500"),
        (("--simulate-redirect",), {}, "302"),
        (("--simulate-invalid-json",), {}, "none"),
        (("--simulate-wrong-content-type",), {}, "none"),
    ],
)
def test_what_is_no_proof_says_why(flags, options, why):
    with engine(*flags).ready() as process:
        assert why in health.prove(address(process, **options))


def test_absurd_usage_is_not_believed():
    with engine("--simulate-usage-huge").ready() as process:
        assert health.prove(address(process)).generated_tokens == 0


def test_a_health_that_hangs_is_no_health_and_takes_no_longer_than_allowed():
    with engine("--simulate-health-hangs").ready() as process:
        begun = time.monotonic()
        assert not health.is_healthy("127.0.0.1", process.port, timeout_s=0.3)
        assert time.monotonic() - begun < 20, "it would hang for ever"


def test_nobody_there_is_no_health():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not health.is_healthy("127.0.0.1", closed.getsockname()[1])


class Nasty:
    """Accepts connections and sends `pieces` with a pause between them, for ever the last one."""

    def __init__(self, *pieces, pause_s=0.02):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pieces, self._pause_s, self._done = pieces, pause_s, threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(65536)
                for piece in self._pieces:
                    connection.sendall(piece)
                while not self._done.wait(self._pause_s):
                    connection.sendall(self._pieces[-1])
        except OSError:
            return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._done.set()
        self._listener.close()
        self._thread.join(5)


@pytest.mark.parametrize("pieces", [(b"H",), (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), (b"HTTP/1.1 200 OK\r\n\r\n", b"x")])
def test_an_answer_that_drips_is_cut_off(pieces):
    with Nasty(*pieces) as server:
        begun = time.monotonic()
        assert not isinstance(health.prove(Address("127.0.0.1", server.port, "", "m"), timeout_s=0.4), Proof)
        assert time.monotonic() - begun < 20, "it would drip for ever"


def test_an_answer_without_end_is_not_read_to_its_end():
    with Nasty(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, pause_s=0.0001) as server:
        assert not isinstance(health.prove(Address("127.0.0.1", server.port, "", "m"), timeout_s=10), Proof)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b"[" * 100_000, b'{"choices": []}', b"\xff"])
def test_an_answer_of_the_wrong_shape_is_none(body):
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    with Nasty(head + body, b"") as server:
        assert isinstance(health.prove(Address("127.0.0.1", server.port, "", "m")), str)


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "7"}, {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_usage_of_the_wrong_shape_counts_nothing(usage):
    body = json.dumps({"choices": [{}], "usage": usage}).encode()
    with Nasty(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body, b"") as server:
        proof = health.prove(Address("127.0.0.1", server.port, "", "m"))
        assert proof.generated_tokens == 0
        assert proof.prompt_tokens == 0
