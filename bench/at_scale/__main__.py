"""`python -m bench.at_scale`: the server's time and the queries of each page, with 10,000 users, 200 engines and
1,000,000 usage records. Visits take the way of Django's test client: handler, middleware, view and template, in one
process, and no network. SQLite, or what PORTAL_DATABASE_URL names, which must be empty or filled by this program."""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

MOST_MS, MOST_QUERIES = 50, 15


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.at_scale", description=__doc__)
    parser.add_argument(
        "--keep", type=Path, help="folder for the data, used again the next time (default: none is kept)"
    )
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--engines", type=int, default=200, help="that live; ten times as many have ended")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--visits", type=int, default=11, help="of each page; the table shows medians (default 11)")
    parser.add_argument("--only", default="", help="pages whose line matches this regular expression")
    parser.add_argument("--strict", action="store_true", help="exit with 3 where a page misses its target")
    parser.add_argument("--explain", action="store_true", help="also print each page's three slowest statements")
    arguments = parser.parse_args()
    if arguments.users < 10 or arguments.engines < 10 or arguments.records < 1 or arguments.visits < 1:
        parser.error("at least 10 users, 10 engines, 1 record and 1 visit")
    directory = arguments.keep or Path(tempfile.mkdtemp(prefix="portal-bench-"))
    directory.mkdir(parents=True, exist_ok=True)
    _set_up(directory)
    try:
        return measure(arguments, directory)
    finally:
        if arguments.keep is None:
            shutil.rmtree(directory, ignore_errors=True)


def _set_up(directory: Path) -> None:
    """Django with this folder's data, and nothing of what this machine is configured with."""
    for name in [name for name in os.environ if name.startswith("PORTAL_") and name != "PORTAL_DATABASE_URL"]:
        del os.environ[name]
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "vllm_portal.settings",
        "PORTAL_CONFIG": str(directory / "none.yaml"),
        "PORTAL_DATA_DIR": str(directory),
        "PORTAL_HF_CACHE_DIR": str(directory / "hf"),
        "PORTAL_LAUNCHER": "simulator",
    }
    import django

    django.setup()


def measure(arguments: argparse.Namespace, directory: Path) -> int:
    from django.core.management import call_command

    from bench.at_scale import pages, rows, visits
    from vllm_portal import embedded_redis
    from vllm_portal.config import get_config

    sizes = rows.Sizes(arguments.users, arguments.engines, arguments.records)
    redis = embedded_redis.start(directory / "redis", get_config().redis_socket)
    try:
        call_command("migrate", verbosity=0)
        rows.fill(sizes, say=lambda text: print(text, file=sys.stderr, flush=True))
        rows.settle()
        print(rows.described(), flush=True)
        missed = 0
        print(f"{'page':<58} {'who':<6} {'p50 ms':>8} {'CPU':>8} {'worst':>8} {'queries':>8}")
        for page in pages.all_of_them():
            if not re.search(arguments.only, page.name):
                continue
            seen = visits.measured(page, arguments.visits)
            slow, chatty = seen.p50_ms > MOST_MS, seen.queries > MOST_QUERIES
            missed += slow or chatty
            mark = " SLOW" * slow + " QUERIES" * chatty
            figures = f"{seen.p50_ms:8.1f} {seen.cpu_ms:8.1f} {seen.worst_ms:8.1f} {seen.queries:8}"
            print(f"{page.name:<58} {page.who:<6} {figures}{mark}", flush=True)
            for ms, sql in seen.slowest if arguments.explain else ():
                print(f"    {ms:.1f} ms {sql[:600]}")
        print(f"{missed} pages over {MOST_MS} ms or {MOST_QUERIES} queries")
        return 3 if arguments.strict and missed else 0
    finally:
        redis.terminate()
        redis.wait(10)


if __name__ == "__main__":
    sys.exit(main())
