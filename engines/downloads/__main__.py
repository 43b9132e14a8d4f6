"""`python -m engines.downloads`: downloads one commit. Its order comes as JSON on stdin, see `process.Order`.

It writes how far it is twice a second and, at its end, how it ended. What passes by itself it tries again for ever: who
looks at it decides how long is too long.
"""

import itertools
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path

from engines import adapters, contained
from engines.downloads import files
from engines.downloads.failures import (
    UNFORESEEN,
    Broken,
    CutShort,
    Failure,
    NoAdapter,
    NoRoom,
    failure_of,
    of_status,
)
from engines.downloads.files import File
from engines.downloads.folder import Download, Order, Outcome, Progress, in_folder, read_files, write
from engines.downloads.transfer import Cached, Partial, fetch

AT_ONCE = 8
"""Files; as many as huggingface_hub's own snapshot_download."""
TELL_SECONDS = 0.5
SPEED_SECONDS = 10.0
SPARE_BYTES = 1 << 30
"""Of the disk stays free."""
LONGEST_PAUSE_S = 30.0
BROKEN_TRIES = 2
PIECE_BYTES = 256 << 10
"""What is lost of a file when its connection is; the library's own ten mebibytes could keep it from ever coming."""


def main() -> None:
    try:
        order = Order(**json.load(sys.stdin))
    except (ValueError, TypeError):
        return  # who was to give the order has died
    download = Download(Path(order.folder), order.name, order.commit, order.adapter)
    download.write_pid()
    download.promise_outcome(order.engine)
    outcome = Outcome()
    try:
        _Work(order, download).run()
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            traceback.print_exc()
            failure = Failure(UNFORESEEN, f"The download's process ended with a {type(error).__name__}.")
        outcome = Outcome(failure.code, failure.words)
    with suppress(OSError):  # the next one tries again
        download.write_outcome(order.engine, outcome)
    os._exit(0)  # the threads of other files may still be at work


class Counter:
    """Bytes of all that is needed, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._known = False
        self._seen: deque[tuple[float, int]] = deque()
        self.trouble = ""

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if count > 0:
                self.trouble = ""

    def expect(self, done: int, total: int, known: bool) -> None:
        """`known`: nothing is to come beyond that."""
        with self._lock:
            self._done += done
            self._total += total
            self._known = known

    def progress(self) -> Progress:
        """The speed is that of the last SPEED_SECONDS."""
        with self._lock:
            now = time.monotonic()
            self._seen.append((now, self._done))
            while now - self._seen[0][0] > SPEED_SECONDS:
                self._seen.popleft()
            began, before = self._seen[0]
            speed = (self._done - before) / (now - began) if now > began else 0.0
            return Progress(self._done, self._total if self._known else 0, round(max(speed, 0.0), 1), self.trouble)


class _Complaints(logging.Handler):
    """The library waits by itself when it is told to come back later, and says so in its log alone."""

    def __init__(self, counter: "Counter") -> None:
        super().__init__()
        self._counter = counter

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"HTTP Error (\d{3}) ", record.getMessage()):
            self._counter.trouble = of_status(int(found[1])).words


class _Work:
    def __init__(self, order: Order, download: Download) -> None:
        self._order, self._download = order, download
        self._cached = Cached(Path(order.cache), order.name, order.commit)
        self._counter = Counter()
        self._pool = ThreadPoolExecutor(AT_ONCE, "file")

    def run(self) -> None:
        """Raises what `failure_of` knows, and what it does not."""
        from huggingface_hub import constants

        constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES
        logging.getLogger("huggingface_hub").addHandler(_Complaints(self._counter))
        listing = self._listing()
        threading.Thread(target=self._tell, daemon=True).start()
        self._download.write_files(self._adapter(listing) if self._order.adapter else self._model(listing))
        self._download.write_progress(self._counter.progress())

    def _model(self, listing: list[File]) -> list[File]:
        besides = files.besides(listing)
        self._fetch(besides, known=False)
        weights = [one for one in files.weights(listing, self._index()) if one.size <= files.LARGEST]
        self._fetch(weights, known=True)
        return [*besides, *weights]

    def _adapter(self, listing: list[File]) -> list[File]:
        wanted = files.of_adapter(listing)
        if missing := set(adapters.FILES) - {one.path for one in wanted}:
            raise NoAdapter(f"{self._order.name} is no LoRA adapter: it has no {min(missing)}.")
        self._fetch(wanted, known=True)
        return wanted

    def _listing(self) -> list[File]:
        """Of a commit it never changes, so it is asked for once in a download."""
        path = self._download.path / "listing.json"
        listing = read_files(path)
        if listing is None:
            listing = self._ask()
            write(path, [list(one) for one in listing])
        return listing

    def _ask(self) -> list[File]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils import get_session

        get_session().timeout = 30.0  # the library sets none for some of its calls
        api = HfApi(endpoint=self._order.endpoint.rstrip("/"), token=self._order.token or False)
        entries = api.list_repo_tree(self._order.name, recursive=True, revision=self._order.commit)
        told = (
            files.file(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        )
        return [one for one in told if one is not None]

    def _index(self) -> bytes | None:
        index = self._cached.pointer(File(files.INDEX, 0, ""))
        return contained.read(index, self._cached.repository, files.LARGEST_INDEX)

    def _fetch(self, wanted: list[File], known: bool) -> None:
        missing = [one for one in wanted if not self._cached.has(one)]
        self._counter.expect(sum(map(self._cached.bytes_of, wanted)), sum(one.size for one in wanted), known)
        self._refuse_too_little_room(missing)
        going = [self._pool.submit(self._patiently, one) for one in missing]
        ended, _ = wait_for(going, return_when=FIRST_EXCEPTION)
        for one in ended:
            one.result()

    def _refuse_too_little_room(self, missing: list[File]) -> None:
        needed = sum(one.size - self._cached.bytes_of(one) for one in missing)
        if not needed:
            return
        folder = next(path for path in (self._cached.hub, *self._cached.hub.parents) if path.is_dir())
        free = shutil.disk_usage(folder).free
        others = sum(self._of_others())
        if needed + SPARE_BYTES > free - others:
            less = f", and other downloads still need {_size(others)} of it" if others else ""
            what = "adapter" if self._order.adapter else "model"
            raise NoRoom(
                f"The {what} needs {_size(needed)} more on the cache's disk, with {_size(SPARE_BYTES)} to spare, "
                f"where {_size(free)} are free{less}."
            )

    def _of_others(self) -> Iterator[int]:
        for other in in_folder(self._download.path.parent):
            if other.path != self._download.path and other.is_locked():
                progress = other.progress()
                yield max(progress.total - progress.done, 0)

    def _patiently(self, one: File) -> None:
        pauses, broken = _pauses(), 0
        before = self._cached.bytes_of(one)
        while True:
            try:
                fetch(one, self._cached, self._pour, self._counter.add)
                return
            except Exception as error:
                failure = failure_of(error)
                if isinstance(error, Broken):
                    broken += 1
                    if broken < BROKEN_TRIES:
                        continue
                if failure is None or not failure.passes:
                    raise
                self._counter.trouble = failure.words
            if (now := self._cached.bytes_of(one)) > before:
                pauses, before = _pauses(), now
            time.sleep(next(pauses))

    def _pour(self, one: File, into: Partial) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        order = self._order
        # Not where the hub leads to: that address holds for a while only, this one is asked anew at each attempt.
        url = hf_hub_url(order.name, one.path, revision=order.commit, endpoint=order.endpoint.rstrip("/"))
        headers = build_hf_headers(token=order.token or False) | {"Accept-Encoding": "identity"}
        try:
            http_get(url, into, resume_size=into.size, headers=headers, expected_size=one.size)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno is None and failure_of(error) is None:
                raise CutShort from None  # the library's complaint about the size
            raise

    def _tell(self) -> None:
        while True:
            with suppress(OSError):  # a full disk, which ends the download itself
                self._download.write_progress(self._counter.progress())
            time.sleep(TELL_SECONDS)


def _pauses() -> Iterator[float]:
    return itertools.chain((1.0, 2.0, 4.0, 8.0, 16.0), itertools.repeat(LONGEST_PAUSE_S))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
