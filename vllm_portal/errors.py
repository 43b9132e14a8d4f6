"""What can go wrong, sorted by who can act.

PortalError
├── CallerError        the caller: the request is wrong; says what to change
│   ├── FieldError     … in one named field of the request
│   ├── NotFound       … what it names does not exist, or is somebody else's
│   └── Conflict       … what it goes on from has changed meanwhile
├── OperatorError      whoever runs the portal: configuration, Docker, database, Redis
└── Unavailable        time: the same request may work later
"""


class PortalError(Exception):
    """Base of the portal's own errors. The message is for the person who reads it: no secret, one sentence."""


class CallerError(PortalError):
    """The request is wrong; repeating it unchanged fails again."""


class FieldError(CallerError):
    """One field of the request is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(CallerError):
    """What the request names does not exist for this caller."""


class Conflict(CallerError):
    """What the request goes on from is not so any more."""


class OperatorError(PortalError):
    """Something around the portal is not as it must be."""


class Unavailable(PortalError):
    """Not now; the same request may work in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
