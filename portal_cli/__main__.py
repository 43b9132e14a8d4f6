"""`python -m portal_cli`"""

import os
import sys

from portal_cli.arguments import parser
from portal_cli.failures import ExitCode, Failure
from portal_cli.screen import Screen


def main(arguments: list[str] | None = None) -> int:
    """The exit code. Wrong arguments raise SystemExit(2), as argparse does."""
    given = parser().parse_args(arguments)
    screen = Screen(as_json=given.json)
    try:
        return int(given.run(given, screen) or ExitCode.OK)
    except Failure as failure:
        screen.failure(failure)
        return failure.exit_code
    except (LookupError, TypeError, AttributeError) as error:
        told = f"The portal answers otherwise than expected ({type(error).__name__}: {error}): is it another version?"
        screen.failure(Failure(told))
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Who reads us has enough. Python would complain when it closes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
