"""What an admin does to people."""

from django.db import IntegrityError, transaction

from accounts import quotas
from accounts.errors import NameTaken, NoSuchUser, NotYourself
from accounts.models import Role, User


def find(username: str) -> User:
    """Raises NoSuchUser."""
    user = User.objects.filter(username=User.normalize_username(username)).first()
    if user is None:
        raise NoSuchUser(username)
    return user


def exists(username: str) -> bool:
    return User.objects.filter(username=User.normalize_username(username)).exists()


def add(
    username: str,
    password: str | None,
    *,
    prompt_limit: int | None = None,
    generated_limit: int | None = None,
    prompt_number: int | None = None,
    generated_number: int | None = None,
    role: str = Role.USER,
    weight: float = 1.0,
) -> User:
    """A new user; None: no password yet, the configured limit, nothing used. Raises NameTaken, also for a name
    that differs from a taken one by case only (two of those at the very same time do get in)."""
    if User.objects.filter(username__iexact=User.normalize_username(username)).exists():
        raise NameTaken(username)
    try:
        with transaction.atomic():
            user = User.objects.create_user(username, password=password, role=role, weight=weight)
            quotas.set_limits(user, prompt_limit, generated_limit)
            quotas.set_numbers(user, prompt_number, generated_number)
    except IntegrityError:
        raise NameTaken(username) from None
    return user


def set_active(user: User, active: bool, by: User) -> None:
    """Enables, or disables: every token of a disabled user stops counting at once, and stays so. Raises NotYourself."""
    if user.pk == by.pk and not active:
        raise NotYourself("You cannot disable yourself; another admin can.")
    user.is_active = active
    user.save(update_fields=["is_active"])


def change(
    user: User,
    by: User,
    *,
    role: str | None = None,
    active: bool | None = None,
    password: str | None = None,
    weight: float | None = None,
) -> None:
    """None leaves it. With another role, standing or password every token from before stops counting, and stays so; a
    weight, LEAST_WEIGHT to MOST_WEIGHT, counts from the user's next request on. Raises NotYourself for an admin who
    would take their own rights away."""
    if user.pk == by.pk and (active is False or role not in (None, Role.ADMIN)):
        raise NotYourself("You cannot take your own rights away; another admin can.")
    changed = []
    for name, value in (("role", role), ("is_active", active), ("weight", weight)):
        if value is not None and value != getattr(user, name):
            setattr(user, name, value)
            changed.append(name)
    if password is not None:
        user.set_password(password)
        changed.append("password")
    if changed:
        user.save(update_fields=changed)
