"""Sizes in pages, in the units that drivers and vLLM use."""

from django import template

register = template.Library()

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@register.filter
def size(count: int | None) -> str:
    """Bytes as `79.6 GiB`, where Django's own filter writes GB for the same; "" of None."""
    if count is None:
        return ""
    number, unit = float(count), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{count} B"
