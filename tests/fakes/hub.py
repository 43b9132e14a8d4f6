"""A Hugging Face hub on this machine: what is asked before a start, in the real one's shapes."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

GOOD_TOKEN = "hf_aliceHasAccess"
POOR_TOKEN = "hf_bobHasNoAccess"
COMMIT = "c0ffee" * 6 + "c0ff"
OLD_COMMIT = "01d" * 13 + "0"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLD_COMMIT, "refs/pr/3": OLD_COMMIT, OLD_COMMIT: OLD_COMMIT}
"""Of each repository."""
ACCOUNTS = {GOOD_TOKEN: "alice-hf", POOR_TOKEN: "bob-hf"}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Who asked has left, as after a time-out. What a handler does wrong, its client sees."""


class FakeHub:
    """`acme/open` is for all, `acme/gated` and `acme/private` for GOOD_TOKEN, and there is nothing else.

    `files` are in each of them; the content of one that is a number is that many zeros.

    `trouble`: a status that every answer has; `delay_s`: how late every answer is.
    """

    def __init__(self) -> None:
        self.trouble = 0
        self.delay_s = 0.0
        self.files: dict[str, bytes | int] = {}
        self.parameters: dict[str, int] = {}
        self.tokens: list[str] = []
        """The tokens that came, "" for none."""
        self.released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self, with_content: bool = True) -> None:
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                hub.tokens.append(token)
                hub.released.wait(hub.delay_s)
                status, body, headers = hub.answer(self.path.partition("?")[0], token)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_content:
                    self.wfile.write(content)

            def do_HEAD(self) -> None:
                self.do_GET(with_content=False)

            def log_message(self, *_: object) -> None:
                """Silence."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, token: str) -> tuple[int, dict | bytes, dict]:
        if self.trouble:
            return self.trouble, {"error": "trouble"}, {}
        if token and token not in ACCOUNTS:
            text = "Invalid credentials in Authorization header"
            return 401, {"error": text}, {"X-Error-Message": text}
        if path == "/api/whoami-v2":
            return (200, {"name": ACCOUNTS[token], "type": "user"}, {}) if token else (401, {}, {})
        if "/resolve/" in path:
            return self.file(*path.removeprefix("/").split("/resolve/"), token)
        name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
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
        content = content if isinstance(content, bytes) else bytes(content)
        return 200, content, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}

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
