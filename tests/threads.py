"""Database work of a test in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import connection

Given = ParamSpec("Given")
Got = TypeVar("Got")


def lent(work: Callable[Given, Got]) -> Callable[Given, Got]:
    """`work` for another thread: it gives the database connection back that it took there."""

    @wraps(work)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Got:
        try:
            return work(*args, **kwargs)
        finally:
            connection.close()

    return run


def at_once(*works: Callable[[], Got], refusals: type[Exception] | tuple[type[Exception], ...] = ()) -> list:
    """Runs each in a thread, all from the same moment on: what they returned, in order.

    An exception of `refusals` is a result as well; any other one is raised here.
    """
    start = threading.Barrier(len(works))

    @lent
    def run(work: Callable[[], Got]) -> object:
        start.wait(10)
        try:
            return work()
        except refusals as refusal:
            return refusal

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works, timeout=60))
