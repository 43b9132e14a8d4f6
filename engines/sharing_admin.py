"""Whom an engine is shared with, on its admin page."""

from typing import Any

from django import forms

from engines import sharing
from engines.models import Engine


class SharingForm(forms.ModelForm):
    """All that an admin may change of an engine there."""

    class Meta:
        model = Engine
        fields = ("shared", "shared_users", "shared_groups")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            # Changed means: differs from what the page showed. An hour-old page gives nothing back.
            field.show_hidden_initial = True

    def _save_m2m(self) -> None:
        """Nothing: `put` writes all."""

    def put(self) -> None:
        """Writes what was changed and nothing else of the row: the rest is the life cycle's."""
        typed = {name: self.cleaned_data[name] for name in self.changed_data}
        sharing.put(self.instance, typed.get("shared"), typed.get("shared_users"), typed.get("shared_groups"))
