"""How templates say what `accounts.standing` knows."""

from typing import Any

from django import template

from accounts.standing import Allowance

register = template.Library()


@register.filter
def in_words(name: str) -> str:
    """`tokens_per_day` as "Tokens per day"."""
    return name.replace("_", " ").capitalize()


@register.filter
def taken(one: Allowance) -> Any:
    """Of the limit: what is used or held, no more than all."""
    return min(one["limit"] or 1, (one["used"] or 0) + one["reserved"]) if one["limit"] else 1
