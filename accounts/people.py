"""What an admin does to people."""

from django.db import IntegrityError, transaction

from accounts import quotas
from accounts.errors import NameTaken, NoSuchUser, NotYourself
from accounts.models import User


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
    password: str,
    *,
    prompt_limit: int | None = None,
    generated_limit: int | None = None,
    prompt_number: int | None = None,
    generated_number: int | None = None,
) -> User:
    """A new user, without admin rights; None: the configured limit, nothing used. Raises NameTaken, also for a name
    that differs from a taken one by case only (two of those at the very same time do get in)."""
    if User.objects.filter(username__iexact=User.normalize_username(username)).exists():
        raise NameTaken(username)
    try:
        with transaction.atomic():
            user = User.objects.create_user(username, password=password)
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
