"""Request ids."""

import itertools
import re
import secrets

_process = secrets.token_hex(8)
_count = itertools.count(1).__next__
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def new_id() -> str:
    """An id that no other request of any process has. Unique, not secret: a random part per process and a count,
    which costs a tenth of a random id."""
    return f"{_process}{_count():010x}"


def accepted_id(offered: str) -> str:
    """The client's own request id where it is harmless, else a new one."""
    return offered if _ACCEPTABLE.match(offered) else new_id()
