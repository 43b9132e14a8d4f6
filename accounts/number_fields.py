"""The field of the admin's forms that takes tokens or another whole number."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from accounts.quotas import MOST


def number_field(label: str | None = None, most: int = MOST, **options: Any) -> forms.IntegerField:
    """0 to `most`."""
    return forms.IntegerField(label=label, min_value=0, max_value=most, widget=UnfoldAdminIntegerFieldWidget, **options)
