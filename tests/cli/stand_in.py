"""A server that answers as it is told to: for what a real portal does not do on demand."""

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Asked(NamedTuple):
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """`pieces` are sent one by one. `breaks`: the connection ends in the middle. `until`: is waited for at the end."""

    status: int
    pieces: list[bytes]
    headers: dict[str, str]
    breaks: bool = False
    until: threading.Event | None = None


class StandIn:
    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.waited_in_vain = False
        """Nobody set an answer's `until`: whoever read it waited for its end."""
        self._answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def on(self, request: str, body: Any = None, status: int = 200, **options: Any) -> None:
        """on("GET /path", …): the next answer there; the last one stays. `body` is JSON, or pieces of bytes."""
        method, path = request.split()
        pieces = body if isinstance(body, list) and body and isinstance(body[0], bytes) else None
        if pieces is None:
            pieces = [] if body is None else [json.dumps(body).encode()]
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        self._answers[method, path].append(Answer(status, pieces, headers, **options))

    def page(self, request: str, *results: Any) -> None:
        self.on(request, {"next": None, "previous": None, "results": list(results)})

    def events(self, request: str, *events: str, **options: Any) -> None:
        """A stream of server-sent events, each written without its empty line."""
        pieces = [f"{event}\n\n".encode() for event in events]
        self.on(request, pieces or [b": nothing\n"], headers={"Content-Type": "text/event-stream"}, **options)

    def answer(self, method: str, path: str) -> Answer:
        waiting = self._answers[method, path]
        if not waiting:
            return Answer(404, [b'{"detail": "Not found."}'], {"Content-Type": "application/json"})
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def asked_for(self, request: str) -> list[Asked]:
        method, path = request.split()
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]


def _handler(portal: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            portal.asked.append(
                Asked(self.command, parts.path, parts.query, headers, json.loads(body) if body else None)
            )
            answer = portal.answer(self.command, parts.path)
            self.close_connection = True
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = sum(map(len, answer.pieces)) + (10 if answer.breaks else 0)
            if answer.until is None:
                self.send_header("Content-Length", str(length))
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for piece in answer.pieces:
                    self.wfile.write(piece)
                if answer.until and not answer.until.wait(25):
                    portal.waited_in_vain = True
            except OSError:
                return

        do_GET = do_POST = do_DELETE = do_PATCH = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
