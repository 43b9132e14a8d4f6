"""The form that makes and changes API keys, for the keys page and the admin."""

from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone

from accounts.keys import TOTALS, Rights
from accounts.models import ApiKey
from accounts.quotas import MOST

Scope = ApiKey.Scope
MODELS, LENGTH = 100, 200


def _tokens(label: str) -> forms.IntegerField:
    return forms.IntegerField(
        label=label, required=False, min_value=0, max_value=MOST, help_text="Empty: only your own limit counts."
    )


class ModelsField(forms.CharField):
    """Names, one a line, as a list."""

    widget = forms.Textarea(attrs={"rows": 3})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != (initial or [])
        except forms.ValidationError:
            return True

    def clean(self, value: Any) -> list[str]:
        names = [name.strip() for name in super().clean(value).splitlines() if name.strip()]
        if len(names) > MODELS or any(len(name) > LENGTH for name in names):
            raise forms.ValidationError(f"At most {MODELS} names of at most {LENGTH} characters.")
        return names


class KeyForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="What the key is for.")
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices, initial=[Scope.INFERENCE], widget=forms.CheckboxSelectMultiple
    )
    allowed_models = ModelsField(
        label="Models", required=False, help_text="Names of models or engines, one a line. Empty: all that you may use."
    )
    may_wake = forms.BooleanField(
        label="May wake engines",
        required=False,
        initial=True,
        help_text="Else its requests to engines that sleep fail.",
    )
    days = forms.IntegerField(
        label="Days until it expires", required=False, min_value=1, max_value=3650, help_text="Empty: never."
    )
    prompt_token_limit = _tokens("Prompt tokens")
    gen_token_limit = _tokens("Generated tokens")

    def rights(self) -> Rights:
        """What was chosen."""
        given = self.cleaned_data
        days = given["days"]
        return {
            "name": given["name"],
            "scopes": given["scopes"],
            "allowed_models": given["allowed_models"],
            "may_wake": given["may_wake"],
            "expires_at": timezone.now() + timedelta(days=days) if days else None,
            **{name: given[name] for name in TOTALS},  # type: ignore[typeddict-item]
        }
