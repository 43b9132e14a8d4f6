"""The original's `users`: a row becomes a User with its TokenLimit, in one transaction."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import bcrypt
from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, transaction

from accounts import quotas
from accounts.models import Role, TokenLimit, User, default_gen_token_limit, default_prompt_token_limit
from vllm_portal.legacy import values
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.source import Row, Source, Unreadable

TABLE = "users"
KNOWN = {
    "id", "username", "hashed_password", "disabled", "role", "gen_token_limit", "prompt_token_limit",
    "prompt_token_number", "gen_token_number", "timestamp", "token_limit",
}  # fmt: skip
NAME_LENGTH = 150
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$([./A-Za-z0-9]{22})[./A-Za-z0-9]{31}")
_COSTLIEST = 16
"""Rounds of bcrypt, as a power of two. Each more doubles the time of a login; 16 is some seconds."""


@dataclass(slots=True)
class Owner:
    """`user` None: the dry run would make them."""

    username: str
    user: User | None


@dataclass(slots=True)
class Person:
    """What a row says of somebody, in the portal's terms."""

    rowid: int
    username: str
    password: str
    role: str
    active: bool
    joined: datetime
    limits: dict[str, int]

    @property
    def rights(self) -> dict[str, Any]:
        return {"password": self.password, "role": self.role, "is_active": self.active}


class People:
    """Reads a file's users into the portal. `update`: also those whom the portal has already."""

    def __init__(self, report: Report, now: datetime, *, update: bool, dry_run: bool) -> None:
        self._report, self._now, self._update, self._dry_run = report, now, update, dry_run
        self.owners: dict[str, Owner] = {}
        """By the original's id."""
        self._by_name: dict[str, tuple[str, Owner]] = {}
        """By the portal's name: the original's, and whose it is."""

    def take_over(self, source: Source, advance: Callable[[], None]) -> None:
        if source.count(TABLE):
            for column in sorted(set(source.columns[TABLE]) - KNOWN):
                self._report.note(TABLE, None, f"the portal has nothing like the column {column}: not taken over")
        for row in source.rows(TABLE):
            self._report.tally(TABLE).read += 1
            try:
                self._take_over(row)
            except Unreadable as error:
                self._report.skip(TABLE, row.rowid, str(error))
            except (DataError, IntegrityError) as error:
                self._report.skip(TABLE, row.rowid, f"the portal's database refused it ({type(error).__name__})")
            advance()

    def owner(self, user_id: object) -> Owner | None:
        """Whose conversation it is: by the original's id; where no row has it, by name. Raises Unreadable."""
        named = (values.text(user_id) or "").strip()
        original, owner = self._by_name.get(named, ("", None))
        return self.owners.get(named) or (owner if original == named else None)

    def _take_over(self, row: Row) -> None:
        original = values.text(row.first("username")) or ""
        username = User.normalize_username(original.strip())
        if not username or len(username) > NAME_LENGTH or not username.isprintable():
            raise Unreadable(f"username is empty, longer than {NAME_LENGTH} characters or not printable")
        held_by, owner = self._by_name.get(username, (original, None))
        if held_by != original:
            raise Unreadable("username is another row's, but for spaces or the form of its characters")
        if owner is not None:
            self._know(row, owner)
            raise Unreadable("username is an earlier row's too; the conversations of both are that user's")
        person = self._read(row, username)
        user = User.objects.filter(username=username).first()
        if user is None:
            user, outcome = self._add(person)
        elif self._update:
            outcome = self._change(user, person)
        else:
            outcome = "present"
        owner = Owner(username, user)
        self._by_name[username] = (original, owner)
        self._know(row, owner)
        tally = self._report.tally(TABLE)
        setattr(tally, outcome, getattr(tally, outcome) + 1)

    def _know(self, row: Row, owner: Owner) -> None:
        try:
            legacy_id = values.text(row.first("id"))
        except Unreadable:
            return
        if legacy_id is not None:
            self.owners.setdefault(legacy_id.strip(), owner)

    def _add(self, person: Person) -> tuple[User | None, str]:
        if User.objects.filter(username__iexact=person.username).exists():
            self._note(person.rowid, "username differs from another user's by upper and lower case only")
        try:
            User.username_validator(person.username)
        except ValidationError:
            self._note(person.rowid, "username has characters that names of new users may not have")
        if self._dry_run:
            return None, "new"
        try:
            with transaction.atomic():
                user = User(username=person.username, date_joined=person.joined, **person.rights)
                user.save()
                TokenLimit.objects.filter(user=user).update(**person.limits)  # nobody uses it yet: nobody to tell
        except IntegrityError:
            user = User.objects.filter(username=person.username).first()
            if user is None:
                raise
            return user, "present"  # another import was faster
        return user, "new"

    def _change(self, user: User, person: Person) -> str:
        last_admin = not User.objects.filter(role=Role.ADMIN, is_active=True).exclude(pk=user.pk).exists()
        if user.is_admin and user.is_active and last_admin and (person.role != Role.ADMIN or not person.active):
            self._note(person.rowid, "is the portal's only admin and stays one")
            person.role, person.active = Role.ADMIN, True
        limit = TokenLimit.objects.get(user=user)
        rights = {name for name, value in person.rights.items() if getattr(user, name) != value}
        if not rights and all(getattr(limit, name) == value for name, value in person.limits.items()):
            return "present"
        if self._dry_run:
            return "changed"
        with transaction.atomic():
            if rights:
                for name, value in person.rights.items():
                    setattr(user, name, value)
                user.save(update_fields=list(person.rights))
            quotas.set_limits(user, person.limits["prompt_token_limit"], person.limits["gen_token_limit"])
            quotas.set_numbers(user, person.limits["prompt_token_number"], person.limits["gen_token_number"])
        return "changed"

    def _read(self, row: Row, username: str) -> Person:
        def tokens(default: int, *columns: str) -> int:
            found = self._value(row, values.number, *columns)
            kept = min(max(default if found is None else found, 0), quotas.MOST)
            if found is not None and found != kept:
                self._note(row.rowid, f"{columns[0]} is not from 0 to {quotas.MOST}: {kept} it is")
            return kept

        disabled = self._value(row, values.flag, "disabled", default=True)
        joined = self._value(row, values.time, "timestamp")
        return Person(
            row.rowid,
            username,
            self._password(row),
            self._role(row),
            not disabled,
            min(joined, self._now) if joined else self._now,
            {
                "prompt_token_limit": tokens(default_prompt_token_limit(), "prompt_token_limit"),
                "gen_token_limit": tokens(default_gen_token_limit(), "gen_token_limit", "token_limit"),
                "prompt_token_number": tokens(0, "prompt_token_number"),
                "gen_token_number": tokens(0, "gen_token_number"),
            },
        )

    def _value(self, row: Row, read: Callable[[object], Any], *columns: str, default: Any = None) -> Any:
        """None where there is none of the columns; `default` where the value cannot be read, with a note."""
        try:
            return read(row.first(*columns))
        except Unreadable as error:
            self._note(row.rowid, f"{columns[0]} {error}")
            return default

    def _role(self, row: Row) -> str:
        role = (self._value(row, values.text, "role", default="") or "").strip().lower()
        if role not in ("", "user", "admin"):
            self._note(row.rowid, "role is none of User and Admin: User it is")
        return Role.ADMIN if role == "admin" else Role.USER

    def _password(self, row: Row) -> str:
        """In Django's form, which the next login replaces by its own hash."""
        found = _BCRYPT.search(self._value(row, values.text, "hashed_password", default="") or "")
        if found and int(found[1]) <= _COSTLIEST and _is_salt(found[2]):
            return f"bcrypt${found[0]}"
        self._note(row.rowid, "hashed_password is no bcrypt hash: an admin must set a new password")
        return make_password(None)

    def _note(self, rowid: int, why: str) -> None:
        self._report.note(TABLE, rowid, why)


def _is_salt(salt: str) -> bool:
    """Tried with the fewest rounds: what bcrypt refuses would fail at each login."""
    try:
        bcrypt.hashpw(b"", f"$2b$04${salt}".encode())
    except ValueError:
        return False
    return True
