"""One page, visited again and again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from django.core.cache import cache
from django.db import connection
from django.test import Client

from accounts.models import User
from bench.at_scale.pages import Page


@dataclass
class Seen:
    """`cpu_ms`: median, too; less than the other where the database or the machine was busy. `queries`: the most of one
    visit. `slowest`: (ms, SQL) of the last visit."""

    p50_ms: float
    cpu_ms: float
    worst_ms: float
    queries: int
    slowest: list[tuple[float, str]]


@dataclass
class Statements:
    """Those of one visit, with what each took."""

    took: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        begun = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            self.took.append(((time.perf_counter() - begun) * 1000, sql))


def measured(page: Page, visits: int) -> Seen:
    """Nothing that an earlier visit remembered in this process helps a later one; imports and templates, which are
    loaded once in a process's life, are not counted. Raises AssertionError where the page is not what was wanted."""
    client = Client(SERVER_NAME="localhost")
    if page.who:
        client.force_login(User.objects.get(username=page.who))
    path = _arrived(client, page)
    took, cpu, statements = [], [], []
    for _ in range(visits):
        cache.clear()
        begun = _cpu_ns()
        ms, seen = _visit(client, path, page.accept)
        cpu.append((_cpu_ns() - begun) / 1e6)
        took.append(ms)
        statements.append(seen)
    slowest = sorted(statements[-1].took, reverse=True)[:3]
    return Seen(median(took), median(cpu), max(took), max(len(one.took) for one in statements), slowest)


def _cpu_ns() -> int:
    """Of this thread and, with PostgreSQL, of the process that works for it there; from the scheduler of Linux."""
    if connection.vendor != "postgresql":
        return time.thread_time_ns()
    connection.ensure_connection()
    backend = Path("/proc", str(connection.connection.info.backend_pid), "schedstat")
    return time.thread_time_ns() + int(backend.read_text().split()[0])


def _arrived(client: Client, page: Page) -> str:
    """Where the page's address leads: a link to set a password moves its secret out of the address."""
    answer = client.get(page.path, headers={"Accept": page.accept}, follow=True)
    path = answer.redirect_chain[-1][0] if answer.redirect_chain else page.path
    assert answer.status_code == 200, f"{page.path}: {answer.status_code}"
    assert not path.startswith("/login") or page.path == path, f"{page.path} leads to the login"
    return path


def _visit(client: Client, path: str, accept: str) -> tuple[float, Statements]:
    seen = Statements()
    with connection.execute_wrapper(seen):
        begun = time.perf_counter()
        answer = client.get(path, headers={"Accept": accept})
        ms = (time.perf_counter() - begun) * 1000
    assert answer.status_code == 200, f"{path}: {answer.status_code}"
    return ms, seen
