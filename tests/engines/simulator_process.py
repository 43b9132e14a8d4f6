"""Runs the stand-in engine as the process it is, and speaks HTTP with it."""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "engines.simulator"]
PATIENCE_S = 20
LONG = {"max_tokens": 8000, "ignore_eos": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def run_to_end(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


class Answer:
    """An HTTP answer that was read to its end."""

    def __init__(self, response, data):
        self.status = response.status
        self.headers = response.headers
        self.data = data

    def json(self):
        return json.loads(self.data)

    def events(self):
        """The texts behind `data: `."""
        return [block.removeprefix("data: ") for block in self.data.decode().split("\n\n") if block]

    def chunks(self):
        """The events that are JSON, parsed; [DONE] has to be the last."""
        *chunks, done = self.events()
        assert done == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]


class SimulatorProcess:
    """One engine. `env` replaces the environment but for PATH."""

    def __init__(self, *flags, model="acme/tiny", env=None):
        # A file, so that an engine that logs much is never held up by a reader.
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [*COMMAND, model, "--port", "0", "--simulate-start-seconds", "0.01", *flags],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self.port = None

    def log(self):
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    def ready(self):
        """Waits until it listens."""
        wait_until(lambda: "Application startup complete" in self.log() or self.process.poll() is not None)
        found = re.search(r"Starting vLLM server on http://127\.0\.0\.1:(\d+)", self.log())
        assert found, self.log()
        self.port = int(found[1])
        wait_until(self._listens)
        return self

    def _listens(self):
        with contextlib.suppress(OSError), self.connect():
            return True

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def wait(self):
        """The exit code."""
        return self.process.wait(timeout=PATIENCE_S)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=PATIENCE_S)
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # HTTP

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            kind = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, path, data, kind | (headers or {}))
            response = connection.getresponse()
            return Answer(response, response.read())

    def get(self, path, **headers):
        return self.request("GET", path, headers=headers)

    def post(self, path, body, **headers):
        return self.request("POST", path, body, headers)

    def chat(self, text="Hello", faults="", **fields):
        return self.post("/v1/chat/completions", chat_body(text, faults, **fields))

    def open(self, path, body, **headers):
        """A connection on which the request has been sent, to be closed by the caller."""
        connection = self.connect()
        data = json.dumps(body).encode()
        lines = {"host": "x", "content-type": "application/json", "content-length": len(data), **headers}
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        connection.sendall(head.encode() + data)
        return connection

    def metric(self, name, **labels):
        """A metric's value, by its exact name; the sum where several rows have the labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        rows = [row for row in self.get("/metrics").data.decode().splitlines() if row.startswith(name + "{")]
        values = [float(row.rsplit(" ", 1)[1]) for row in rows if all(one in row for one in wanted)]
        assert values, f"no {name} in /metrics"
        return sum(values)

    def tokens(self):
        """(prompt tokens, generated tokens) so far."""
        return self.metric("vllm:prompt_tokens_total"), self.metric("vllm:generation_tokens_total")

    def running(self):
        return self.metric("vllm:num_requests_running")


def chat_body(text="Hello", faults="", **fields):
    body = {"messages": [{"role": "user", "content": text}]} | fields
    return body | {"vllm_xargs": {"simulate": faults}} if faults else body


def read_to_end(connection, data=None):
    """All bytes until the other side closes. They are also in `data`, if a time-out ends the reading."""
    data = bytearray() if data is None else data
    while received := connection.recv(1 << 16):
        data += received
    return bytes(data)
