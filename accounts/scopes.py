"""What an API key is for: which endpoints each scope opens. Access tokens and browser sessions open all of them.

    read-only    what reads: GET, HEAD, OPTIONS, and the views that say `only_reads = True`
    management   the same, and what changes something
    inference    the views that say `scope = "inference"`: what a key needs to change something there

A view that says `any_scope = True`, or that is open to all, is open to each key.
"""

from typing import Any

from rest_framework.permissions import SAFE_METHODS, AllowAny

from accounts.models import ApiKey

Scope = ApiKey.Scope


def missing(key: ApiKey, method: str, view: Any) -> str:
    """Which scope the key lacks for this request to a DRF view; "": none."""
    if getattr(view, "any_scope", False) or any(isinstance(each, AllowAny) for each in view.get_permissions()):
        return ""
    enough = _enough(method, view)
    return "" if set(enough) & set(key.scopes) else enough[0]


def covered(scopes: list[str]) -> set[str]:
    """The scopes that these amount to: who may change things may look at them."""
    return {*scopes, Scope.READ} if Scope.MANAGEMENT in scopes else set(scopes)


def _enough(method: str, view: Any) -> list[Scope]:
    """Any of these will do; the first is the one to ask for."""
    inference = [Scope.INFERENCE] if getattr(view, "scope", None) == Scope.INFERENCE else []
    if method in SAFE_METHODS or getattr(view, "only_reads", False):
        return [Scope.READ, Scope.MANAGEMENT, *inference]
    return inference or [Scope.MANAGEMENT]
