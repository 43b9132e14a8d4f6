"""An image registry on 127.0.0.1, which Docker takes without TLS: one image of one layer, so that pulls are real.

`hang` makes it accept requests and never answer them.
"""

import hashlib
import http.server
import io
import json
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def one_file_layer(size: int) -> bytes:
    """An uncompressed layer; its content is not compressible to nothing, so that there is something to load."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("content")
        entry.size = size
        tar.addfile(entry, io.BytesIO(hashlib.shake_128(str(size).encode()).digest(size)))
    return archive.getvalue()


class Registry:
    """Serves the image `<address>/engine:1`."""

    def __init__(self, layer_bytes: int = 3_000_000) -> None:
        layer = one_file_layer(layer_bytes)
        image = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": ["/content"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
            }
        ).encode()
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(image),
                    "digest": digest(image),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                        "size": len(layer),
                        "digest": digest(layer),
                    }
                ],
            }
        ).encode()
        self.blobs = {digest(image): image, digest(layer): layer}
        self.released = threading.Event()
        self.released.set()
        self.address = ""

    def hang(self) -> None:
        self.released.clear()

    def find(self, path: str) -> tuple[int, str, bytes]:
        if path == "/v2/":
            return 200, "application/json", b"{}"
        if path in ("/v2/engine/manifests/1", f"/v2/engine/manifests/{digest(self.manifest)}"):
            return 200, MANIFEST_TYPE, self.manifest
        blob = self.blobs.get(path.rpartition("/")[2])
        if path.startswith("/v2/engine/blobs/") and blob is not None:
            return 200, "application/octet-stream", blob
        return 404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'


@contextmanager
def serve() -> Iterator[Registry]:
    registry = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, with_body: bool) -> None:
            if self.path != "/v2/":
                registry.released.wait(timeout=60)
            status, kind, content = registry.find(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            """A client that went away is what a test wants to see."""

    with Server(("127.0.0.1", 0), Handler) as server:
        registry.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            registry.released.set()
            server.shutdown()
            thread.join()
