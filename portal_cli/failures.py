"""What can go wrong, as the exit code that a script sees."""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    LIMIT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXPLAINED = """\
exit codes:
  0    done
  1    failed: the engine did not come up, the portal refused the request, …
  2    wrong arguments
  3    not logged in, or not allowed
  4    there is no such engine, key, model or conversation
  5    a token limit or a rate is reached
  6    the portal, or the engine behind it, cannot be reached now
  130  interrupted (Ctrl-C)
"""


class Failure(Exception):
    """One sentence for the user. `status`: of the portal's answer, None where there was none."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED, status: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.status = status
