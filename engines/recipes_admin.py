"""Recipes in the admin pages: published, renamed, started there. What they fix is read only."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.tables import Table
from engines import options_admin, recipe_differences, recipe_measures, recipes, starting
from engines.recipe_models import Recipe
from vllm_portal.errors import CallerError, FieldError


class RecipeForm(forms.ModelForm):
    class Meta:
        model = Recipe
        fields = ("name", "published", "notes", "lease_hours", "idle_minutes", "sleep_minutes", "wakes")

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if name.isdecimal() or not name.isprintable():
            raise forms.ValidationError("Use characters that can be seen, and not digits alone.")
        return name

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        if not self.errors:
            named = {name: given[name] for name in ("name", "published")}
            try:
                recipes.refuse_taken_name(Recipe(pk=self.instance.pk, owner=self.instance.owner, **named))
            except FieldError as error:
                self.add_error(error.field, str(error))
        return given


class RecipeAdmin(options_admin.OptionsShown, Table):
    form = RecipeForm
    list_display = ("name", "owner", "published", "model", "vllm_version", "digest", "created_at")
    list_filter = ("published",)
    list_select_related = ("owner",)
    search_fields = ("name", "model")
    person = "owner"
    actions = ("start",)
    readonly_fields = (
        "owner", *options_admin.FIELDS, "tokenizer_revision", "launcher", "device", "image", "image_digest",
        "vllm_version", "measured", "warnings", "created_at",
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": RecipeForm.Meta.fields}),
        ("Fixed", {"fields": readonly_fields}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """They are made from engines."""
        return False

    @admin.display(description="image")
    def digest(self, recipe: Recipe) -> str:
        return recipe.image_digest.removeprefix("sha256:")[:12]

    @admin.display(description="measured")
    def measured(self, recipe: Recipe) -> str:
        return ", ".join(recipe_measures.of([recipe])[recipe.pk].told) or "nothing yet"

    @admin.display(description="a start now")
    def warnings(self, recipe: Recipe) -> str:
        return " ".join(recipe_differences.before(recipe, recipe_differences.Today())) or "would be the same"

    @admin.action(description="Start: an engine of yours", permissions=["view"])
    def start(self, request: HttpRequest, queryset: QuerySet[Recipe]) -> None:
        for recipe in queryset:
            try:
                engine = starting.start(request.user, recipes.order_of(recipe, {}))
            except CallerError as error:
                self.message_user(request, f"{recipe}: {error}", messages.ERROR)
                continue
            self.log_change(request, recipe, f"started as {engine}")
            self.message_user(request, f"{recipe} is started as {engine}.")
            for told in recipe_differences.of(engine, recipe_differences.Today()):
                self.message_user(request, f"{engine}: {told}", messages.WARNING)
