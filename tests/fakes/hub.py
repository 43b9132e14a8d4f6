"""A Hugging Face hub on this machine: what is asked before a start, and files, in the real one's shapes."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

GOOD_TOKEN = "hf_aliceHasAccess"
POOR_TOKEN = "hf_bobHasNoAccess"
COMMIT = "c0ffee" * 6 + "c0ff"
OLD_COMMIT = "01d" * 13 + "0"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLD_COMMIT, "refs/pr/3": OLD_COMMIT, OLD_COMMIT: OLD_COMMIT}
"""Of each repository."""
ACCOUNTS = {GOOD_TOKEN: "alice-hf", POOR_TOKEN: "bob-hf"}


PIECE = 64 << 10


def listed(path: str, content: bytes) -> dict[str, object]:
    """As the hub lists a file: a large one lies in its store for large files, under its SHA-256."""
    git = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": git}
    if path.endswith((".json", ".txt", ".py", ".jinja")):
        return entry
    return entry | {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}


def _bytes(content: bytes | int) -> bytes:
    return content if isinstance(content, bytes) else bytes(content)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Who asked has left, as after a time-out. What a handler does wrong, its client sees."""


class FakeHub:
    """`acme/open` is for all, `acme/gated` and `acme/private` for GOOD_TOKEN, and there is nothing else.

    `files` are in each of them; the content of one that is a number is that many zeros.

    `trouble`: a status that every answer has; `delay_s`: how late every answer is.

    Of files: `bytes_per_s`: how fast each comes; `cut_after`: so many bytes of one, then the connection is closed;
    `troubles`: statuses of the next answers; `tells`: by path what the list says of them that is not so;
    `ranges`: whether one may go on in the middle; `elsewhere`: where they really are, as with the hub's CDN.
    """

    def __init__(self) -> None:
        self.trouble = 0
        self.delay_s = 0.0
        self.files: dict[str, bytes | int] = {}
        self.parameters: dict[str, int] = {}
        self.tokens: list[str] = []
        """The tokens that came, "" for none."""
        self.bytes_per_s = 0.0
        self.cut_after: int | None = None
        self.troubles: list[int] = []
        self.tells: dict[str, dict[str, object]] = {}
        self.ranges = True
        self.elsewhere = ""
        self.asked: list[tuple[str, int]] = []
        """(path, first byte) of the files that were asked for."""
        self.sent: Counter[str] = Counter()
        """Bytes of each file, again and again."""
        self.released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                hub.tokens.append(token)
                hub.released.wait(hub.delay_s)
                if "/resolve/" in self.path and self.give(token):
                    return
                status, body, headers = hub.answer(self.path.partition("?")[0], token)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def do_HEAD(self) -> None:
                """As for a file: of what it is, the real one tells its commit, hash and size."""
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                status, content, headers = hub.answer(self.path.partition("?")[0], token)
                self.send_response(status)
                if status == 200 and isinstance(content, bytes):
                    entry = listed(self.path.rpartition("/")[2], content)
                    large = entry.get("lfs")
                    etag = large["oid"] if isinstance(large, dict) else entry["oid"]
                    headers |= {"ETag": f'"{etag}"', "Content-Length": str(len(content))}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def give(self, token: str) -> bool:
                """A file in pieces, from where it is asked for. False: there is none for this token, or trouble."""
                if hub.troubles:
                    return False
                path = unquote(self.path.partition("/resolve/")[2].partition("/")[2].partition("?")[0])
                status, content, _ = hub.answer(self.path.partition("?")[0], token)
                if status != 200:
                    return False
                assert isinstance(content, bytes)
                asked_for, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
                first = int(asked_for) if hub.ranges else 0
                size, content = len(content), content[: int(last) + 1] if last and hub.ranges else content
                hub.asked.append((path, int(asked_for)))
                if hub.elsewhere:
                    self.send_response(302)
                    self.send_header("location", f"{hub.elsewhere}{self.path}")
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return True
                if first and first >= len(content):
                    self.send_error(416)
                    return True
                rest = content[first:]
                self.send_response(206 if first or len(content) < size else 200)
                self.send_header("content-length", str(len(rest)))
                if first or len(content) < size:
                    self.send_header("content-range", f"bytes {first}-{len(content) - 1}/{size}")
                self.end_headers()
                for at in range(0, len(rest), PIECE):
                    if hub.cut_after is not None and at >= hub.cut_after:
                        self.close_connection = True
                        return True
                    piece = rest[at : at + PIECE]
                    if hub.bytes_per_s:
                        hub.released.wait(len(piece) / hub.bytes_per_s)
                    hub.sent[path] += len(piece)
                    self.wfile.write(piece)
                return True

            def log_message(self, *_: object) -> None:
                """Silence."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, token: str) -> tuple[int, dict | list | bytes, dict]:
        if self.trouble:
            return self.trouble, {"error": "trouble"}, {}
        if token and token not in ACCOUNTS:
            text = "Invalid credentials in Authorization header"
            return 401, {"error": text}, {"X-Error-Message": text}
        if path == "/api/whoami-v2":
            return (200, {"name": ACCOUNTS[token], "type": "user"}, {}) if token else (401, {}, {})
        if "/resolve/" in path and self.troubles:
            return self.troubles.pop(0), {"error": "trouble"}, {"Retry-After": "0"}
        if "/resolve/" in path:
            return self.file(*path.removeprefix("/").split("/resolve/"), token)
        name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        if "/tree/" in name:
            return self.tree(*name.split("/tree/"), token)
        wants_files = name.endswith("/auth-check")
        status, body, headers = self.model(name.removesuffix("/auth-check"), wants_files, token)
        commit = REVISIONS.get(unquote(revision) or "main")
        if status == 200 and commit is None:
            return 404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"}
        return status, body | {"sha": commit}, headers

    def file(self, name: str, path: str, token: str) -> tuple[int, dict | bytes, dict]:
        status, body, headers = self.model(name, True, token)
        if status != 200:
            return status, body, headers
        revision, _, file = path.partition("/")
        commit = REVISIONS.get(unquote(revision))
        if commit is None:
            return 404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"}
        content = self.files.get(file)
        if content is None:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        return 200, _bytes(content), {"X-Repo-Commit": commit}

    def tree(self, name: str, commit: str, token: str) -> tuple[int, list | dict, dict]:
        status, body, headers = self.model(name, True, token)
        if status != 200:
            return status, body, headers
        if commit not in REVISIONS:
            return 404, {"error": f"Invalid rev id: {commit}"}, {"X-Error-Code": "RevisionNotFound"}
        return (
            200,
            [listed(path, _bytes(content)) | self.tells.get(path, {}) for path, content in self.files.items()],
            {},
        )

    def model(self, name: str, wants_files: bool, token: str) -> tuple[int, dict, dict]:
        sizes = {path: content if isinstance(content, int) else len(content) for path, content in self.files.items()}
        info = {
            "id": name, "modelId": name, "sha": COMMIT, "gated": False, "private": False, "tags": [],
            "siblings": [{"rfilename": path, "size": size} for path, size in sizes.items()],
        }  # fmt: skip
        if self.parameters:
            info["safetensors"] = {"parameters": self.parameters, "total": sum(self.parameters.values())}
        if name == "acme/open":
            return 200, info, {}
        if name == "acme/gated":
            if wants_files and token != GOOD_TOKEN:
                return 403 if token else 401, {"error": "restricted"}, {"X-Error-Code": "GatedRepo"}
            return 200, info | {"gated": "manual"}, {}
        if name == "acme/private" and token == GOOD_TOKEN:
            return 200, info | {"private": True}, {}
        status = 404 if token else 401
        return status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
