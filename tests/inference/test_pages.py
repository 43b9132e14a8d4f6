"""A web process passes what is not inference on to the pages' process, and comes to no harm with it."""

import asyncio
import contextlib
import socket
import tempfile
import threading
from pathlib import Path

import pytest
import requests
import uvicorn

from inference.front import Front
from inference.pages import Pages

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


class Far:
    """The pages' process: answers each request with what `script(request, reader, writer)` writes."""

    def __init__(self, script) -> None:
        self.path = str(Path(tempfile.mkdtemp(prefix="pages")) / "s")
        self.requests: list[bytes] = []
        self.connections = 0
        self.left = threading.Event()
        self._script = script
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_unix_server(self._serve, self.path))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _serve(self, reader, writer) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(length[0] if length else 0)
                self.requests.append(head + body)
                if await self._script(head + body, reader, writer):
                    break
        self.left.set()
        writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def start():
    """start(script): (the address of a web process, the pages' process behind it). Without a script there is none. A
    page is given up after `patience_s`."""
    ends = []

    def begin(script=None, patience_s=60):
        far = Far(script) if script else None
        if far:
            ends.append(far.close)
        pages = Pages(far.path if far else "/nowhere/at/all", patience_s)
        server = uvicorn.Server(uvicorn.Config(pages, port=0, http=Front, log_config=None, lifespan="off"))

        async def serve() -> None:
            await server.serve()
            pages.close()
            await asyncio.sleep(0)

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            thread.join(0.005)

        def end() -> None:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()

        ends.append(end)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", far

    yield begin
    for end in reversed(ends):
        end()


async def hello(request, reader, writer):
    body = b"" if request.startswith(b"HEAD") else b"hello"
    writer.write(HEAD + b"content-length: 5\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n" + body)


def test_a_request_and_its_answer_arrive_as_they_were_sent(start):
    url, far = start(hello)
    answer = requests.post(url + "/a%2Fb/?q=%20x", data=b"body", headers={"X-One": "1", "Cookie": "c=3"}, timeout=10)
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.raw.headers.getlist("set-cookie") == ["a=1", "b=2"]
    (request,) = far.requests
    line, *fields = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert line == b"POST /a%2Fb/?q=%20x HTTP/1.1"
    assert {b"x-one: 1", b"cookie: c=3", b"content-length: 4", b"host: " + url[7:].encode()} <= set(fields)
    assert not any(field.startswith((b"connection", b"transfer-encoding")) for field in fields)
    assert request.endswith(b"\r\n\r\nbody")


def test_an_answers_own_headers_arrive_and_those_of_its_connection_do_not(start):
    async def plain(request, reader, writer):
        writer.write(HEAD + b"cache-control: no-store\r\ncontent-length: 5\r\n\r\nhello")

    async def of_its_connection(request, reader, writer):
        writer.write(HEAD + b"connection: keep-alive\r\nkeep-alive: timeout=99\r\ncontent-length: 5\r\n\r\nhello")

    assert requests.get(start(plain)[0], timeout=10).headers["cache-control"] == "no-store"
    answer = requests.get(start(of_its_connection)[0], timeout=10)
    assert (answer.text, answer.headers.get("keep-alive")) == ("hello", None)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(("body", "chunked"), [(b"", False), (b"body", False), (b"x" * 2**20, False), (b"body", True)])
def test_a_body_arrives_whole_with_its_length_once(start, method, body, chunked):
    url, far = start(hello)
    hops = {"Expect": "100-continue", "TE": "trailers", "Keep-Alive": "timeout=5"} if body else {}
    answer = requests.request(method, url, data=iter([body]) if chunked else body, headers=hops, timeout=10)
    assert answer.text == "hello"
    (request,) = far.requests
    head, _, arrived = request.partition(b"\r\n\r\n")
    fields = head.split(b"\r\n")
    assert not [field for field in fields if field.startswith((b"transfer-encoding", b"expect", b"te:", b"keep-alive"))]
    lengths = [field for field in fields if field.startswith(b"content-length")]
    assert lengths == ([b"content-length: %d" % len(body)] if body or method in ("POST", "PUT") else [])
    assert arrived == body


def test_of_who_leaves_in_the_middle_of_a_body_nothing_arrives(start):
    url, far = start(hello)
    host, port = url[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
    for _ in range(3):
        assert requests.get(url, timeout=10).text == "hello"
    assert [request.split(b" ")[0] for request in far.requests] == [b"GET"] * 3


def test_an_answer_to_head_has_ended_with_its_head(start):
    url, _ = start(hello)
    with requests.Session() as connection:  # one: what comes next waits for what was before
        for _ in range(3):
            assert connection.head(url, timeout=10).status_code == 200
            assert connection.get(url, timeout=10).text == "hello"


def test_a_connection_is_used_again_but_not_after_an_answer_without_its_body(start):
    url, far = start(hello)
    for _ in range(3):
        assert requests.get(url, timeout=10).text == "hello"
    assert far.connections == 1
    answer = requests.head(url, timeout=10)
    assert (answer.headers["content-length"], answer.text) == ("5", "")
    assert requests.get(url, timeout=10).text == "hello"
    assert far.connections == 2


def test_what_is_written_bit_by_bit_arrives_so(start):
    go_on = threading.Event()

    async def slowly(request, reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await asyncio.to_thread(go_on.wait, 10)
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    url, _ = start(slowly)
    with requests.get(url, stream=True, timeout=10) as answer:
        pieces = answer.iter_content(None)
        assert next(pieces) == b"one"
        go_on.set()
        assert b"".join(pieces) == b"two"


def test_a_client_that_leaves_ends_its_page(start):
    async def for_ever(request, reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        return not await reader.read(1)  # until the web process hangs up

    url, far = start(for_ever)
    with requests.get(url, stream=True, timeout=10) as answer:
        assert next(answer.iter_content(None)) == b"one"
    assert far.left.wait(10)


def test_without_the_pages_process_one_is_told_to_try_again(start):
    url, _ = start()
    answer = requests.get(url, timeout=10)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "Try again" in answer.json()["detail"]
    page = requests.get(url, headers={"Accept": "text/html"}, timeout=10)
    assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert "http-equiv=refresh" in page.text


@pytest.mark.parametrize("half", [b"content-length: 10\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n4\r\n"])
def test_a_page_that_breaks_off_does_not_pass_for_a_whole_one(start, half):
    async def dies(request, reader, writer):
        writer.write(HEAD + half + b"half\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        return True

    url, _ = start(dies)
    with pytest.raises(requests.exceptions.RequestException):
        requests.get(url, timeout=10)


def test_a_page_that_never_began_is_told_of(start):
    async def dies(request, reader, writer):
        return True

    url, _ = start(dies)
    answer = requests.get(url, headers={"Accept": "text/html"}, timeout=10)
    assert (answer.status_code, list(answer.json())) == (502, ["detail"])


def test_a_page_that_does_not_begin_in_time_is_told_of_and_ended(start):
    async def hangs(request, reader, writer):
        return not await reader.read(1)

    url, far = start(hangs, patience_s=0.2)
    answer = requests.get(url, timeout=10)
    assert (answer.status_code, list(answer.json())) == (504, ["detail"])
    assert far.left.wait(10)


def test_a_slow_reader_is_waited_for_and_not_stored(start):
    """What nobody takes stays with who writes it."""
    written = [0]
    size = 64 * 2**20

    async def much(request, reader, writer):
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % size)
        with contextlib.suppress(ConnectionError):
            while written[0] < size:
                writer.write(b"x" * 2**16)
                await writer.drain()
                written[0] += 2**16
        return True

    url, far = start(much)
    host, port = url[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(10)
        before = -1
        while written[0] != before:  # until nothing moves any more
            before = written[0]
            far.left.wait(0.5)
        assert written[0] < size / 4
        got = 0
        while got < before + 2**22:  # whoever takes it gets the rest
            got += len(client.recv(2**20))
    assert far.left.wait(10)
