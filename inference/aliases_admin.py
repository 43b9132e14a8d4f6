"""Model aliases in the admin pages."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminTextareaWidget

from accounts.tables import Table
from inference import aliases
from inference.models import ModelAlias
from vllm_portal.errors import FieldError


class AliasForm(forms.ModelForm):
    targets = forms.CharField(
        widget=UnfoldAdminTextareaWidget, help_text="Names of models or engines, each on a line of its own."
    )

    class Meta:
        model = ModelAlias
        fields = ("name", "targets")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["targets"] = "\n".join(self.instance.targets)

    def clean_targets(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data["targets"].splitlines() if line.strip()]

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        if not self.errors:
            alias = ModelAlias(pk=self.instance.pk, name=given["name"], targets=given["targets"])
            try:
                aliases.check(alias)
            except FieldError as error:
                self.add_error(error.field, str(error))
        return given


class AliasAdmin(Table):
    form = AliasForm
    list_display = ("name", "stands_for")
    search_fields = ("name",)

    @admin.display(description="stands for")
    def stands_for(self, alias: ModelAlias) -> str:
        return ", ".join(alias.targets)

    def save_model(self, request: HttpRequest, obj: ModelAlias, form: forms.ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        aliases.tell()

    def delete_model(self, request: HttpRequest, obj: ModelAlias) -> None:
        aliases.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ModelAlias]) -> None:
        super().delete_queryset(request, queryset)
        aliases.tell()
