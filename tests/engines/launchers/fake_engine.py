"""A process that an engine's launcher can start: it listens, logs, and misbehaves as its environment says.

Standard library alone, and a program of its own: it runs under the process launcher and inside a container.

    fake_engine.py [MODEL] … --host HOST --port PORT

FAKE_EXIT=3         ends at once with this code, after a line that says so
FAKE_IGNORE_TERM=1  takes no notice of SIGTERM
FAKE_WORKER=1       has a child that outlives it, with no descriptor of the parent's but its output
FAKE_MEMORY_MB=N    takes that much memory
FAKE_LOG_BYTES=N    logs N more bytes before it listens
"""

import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    """Any path: what this process was given, so that a test can look at it from inside."""

    def do_GET(self) -> None:
        token = os.environ.get("HF_TOKEN_PATH", "")
        body = {
            "pid": os.getpid(),
            "argv": sys.argv[1:],
            "environment": dict(os.environ),
            "token": pathlib.Path(token).read_text() if os.path.exists(token) else None,
            "writable_cache": os.access(os.path.expanduser("~/.cache/huggingface/hub"), os.W_OK),
        }
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("FAKE_IGNORE_TERM") else lambda *_: os._exit(0))
    print("fake engine: first line", flush=True)
    if "FAKE_EXIT" in os.environ:
        print("ValueError: told to exit", file=sys.stderr, flush=True)
        sys.exit(int(os.environ["FAKE_EXIT"]))
    if "FAKE_WORKER" in os.environ:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    taken = bytearray(int(os.environ.get("FAKE_MEMORY_MB", "0")) * 2**20)
    taken[::4096] = b"x" * len(taken[::4096])  # touched, or it would only be promised
    filler = "x" * 99 + "\n"
    for _ in range(int(os.environ.get("FAKE_LOG_BYTES", "0")) // len(filler)):
        sys.stdout.write(filler)
    host, port = sys.argv[sys.argv.index("--host") + 1], int(sys.argv[sys.argv.index("--port") + 1])
    server = http.server.ThreadingHTTPServer((host, port), Answer)
    print("fake engine: listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
