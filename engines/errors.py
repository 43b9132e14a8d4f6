"""What launchers and engines can do wrong.

LauncherError (OperatorError)    the launcher itself failed: no daemon, a time-out; the engine's fate is unknown
└── StartFailed                  the launcher says that this engine cannot be started: a cause with a code
"""

from vllm_portal.errors import OperatorError


class LauncherError(OperatorError):
    """The launcher did not do what it was asked; whether the engine runs is unknown. Try again."""


class StartFailed(LauncherError):
    """This engine cannot be started as it is; trying again without a change fails again.

    `code` names the cause for programs, the message is one sentence for people, `advice` says what to change.
    """

    def __init__(self, code: str, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.advice = advice
