"""What can be wrong about people, on top of `vllm_portal.errors`.

CallerError
├── NotAuthenticated   no token, or one that does not count (any more); always 401
├── WrongLogin         name and password do not fit, or the user is disabled: one answer for all three; 401
├── NotYourself        what an admin may do to others only; 400
├── KeyRevoked         a revoked API key is not changed any more; 400
├── MoreThanOwn        an API key gives another more than it has itself; 403
├── FieldError
│   └── NameTaken      400
└── NotFound
    └── NoSuchUser     404; only admins can meet it, the others name nobody
"""

from vllm_portal.errors import CallerError, FieldError, NotFound


class NotAuthenticated(CallerError):
    """The message says what to do about it."""


class WrongLogin(CallerError):
    """Says nothing about which of the two was wrong."""

    def __init__(self) -> None:
        super().__init__("Incorrect username or password")


class NotYourself(CallerError):
    """An admin who locks themselves out leaves a portal without one."""


class KeyRevoked(CallerError):
    def __init__(self) -> None:
        super().__init__("This API key is revoked; make a new one.")


class MoreThanOwn(CallerError):
    """`right` names it."""

    def __init__(self, right: str) -> None:
        super().__init__(f"{right}: more than the API key that you call with may itself.")


class NameTaken(FieldError):
    def __init__(self, username: str) -> None:
        super().__init__("username", f"There is a user {username} already (names that differ by case only count too).")


class NoSuchUser(NotFound):
    def __init__(self, username: str) -> None:
        super().__init__(f"There is no user {username}.")
