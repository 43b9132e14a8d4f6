"""Links with which people set their password themselves: an admin makes one and sends it, the portal sends no mail.

A link is good for PASSWORD_RESET_TIMEOUT and once: the password, and each log-in, is part of what it is signed with.
"""

from django.contrib.auth.tokens import default_token_generator
from django.http import HttpRequest
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from accounts.models import User
from vllm_portal.config import get_config


def link(user: User, request: HttpRequest) -> str:
    """Whoever has it can log in as the user. `request` tells under which name the portal is reached."""
    identity = urlsafe_base64_encode(force_bytes(user.pk))
    path = reverse("set-password", args=(identity, default_token_generator.make_token(user)))
    public_url = get_config().public_url
    return public_url.rstrip("/") + path if public_url else request.build_absolute_uri(path)
