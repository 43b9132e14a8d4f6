"""API keys in the admin pages: made (shown once), limited, revoked; never seen in clear again."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminTextareaWidget,
)

from accounts import keys
from accounts.errors import KeyRevoked
from accounts.forms import ModelsField
from accounts.keys import LIMITS, TOTALS, Rights
from accounts.keys_serializers import COUNTABLE
from accounts.models import ApiKey
from accounts.number_fields import number_field
from accounts.quotas import MOST
from accounts.tables import ReadOnly, Table


def _limit(most: int = MOST, label: str | None = None) -> forms.IntegerField:
    return number_field(label, most, required=False, help_text="Empty: only the user's counts.")


class KeyAdminForm(forms.ModelForm):
    prompt_token_limit = _limit()
    gen_token_limit = _limit(label="Generated token limit")
    requests_per_minute = _limit(COUNTABLE)
    tokens_per_minute = _limit()
    tokens_per_day = _limit()
    tokens_per_month = _limit()
    requests_at_once = _limit(COUNTABLE)
    scopes = forms.MultipleChoiceField(choices=ApiKey.Scope.choices, widget=UnfoldAdminCheckboxSelectMultipleWidget)
    allowed_models = ModelsField(
        label="Models",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Names of models or engines, one a line. Empty: all.",
    )

    class Meta:
        model = ApiKey
        fields = ("user", "name", "scopes", "allowed_models", "may_wake", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """The limits are in a table of their own."""
        super().__init__(*args, **kwargs)
        limit = getattr(self.instance, "limit", None)
        self.initial = {name: getattr(limit, name, None) for name in LIMITS} | self.initial

    def rights(self) -> Rights:
        """What was changed; of a new key all. The rest of the page may be older than the row."""
        given: Any = {name: value for name, value in self.cleaned_data.items() if name != "user"}
        return {name: given[name] for name in given if name in self.changed_data} if self.instance.pk else given


@admin.display(description="key")
def shown(key: ApiKey) -> str:
    return f"{key.prefix}…{key.last_four}"


@admin.display
def state(key: ApiKey) -> str:
    if key.revoked_at:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    return "expired" if key.expires_at and key.expires_at <= timezone.now() else "valid"


@admin.display(description="for")
def scopes(key: ApiKey) -> str:
    return ", ".join(key.said_scopes)


class KeyInline(ReadOnly, TabularInline):
    """On a user's page: to look at, and the way to the key's own page."""

    model = ApiKey
    fields = readonly_fields = ("name", shown, scopes, state, "expires_at", "last_used_at")
    verbose_name_plural = "API keys"
    show_change_link = True
    extra = 0


@admin.register(ApiKey)
class KeyAdmin(Table):
    form = KeyAdminForm
    autocomplete_fields = ("user",)
    list_display = ("name", "user", shown, scopes, state, "last_used_at", "prompt_used", "generated_used")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    list_select_related = ("user", "limit")
    ordering = ("-pk",)  # the latest first, by an index
    search_fields = ("name", "last_four")
    person = "user"
    actions = ("revoke",)

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        about = ("user", "name", "scopes", "allowed_models", "may_wake", "expires_at")
        sets = [(None, {"fields": about}), ("Limits of its own, within the user's", {"fields": LIMITS})]
        return [*sets, ("As it stands", {"fields": self.get_readonly_fields(request, obj)[1:]})] if obj else sets

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[Any, ...]:
        return ("user", shown, state, "created_at", "last_used_at", "prompt_used", "generated_used") if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.revoked_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Keys are revoked: the records of what they have spent stay theirs."""
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not change:
            key, clear = keys.make(obj.user, form.rights())
            obj.__dict__.update(key.__dict__)
            self.message_user(request, f"This is the new key. It is shown only this once: {clear}", messages.WARNING)
            return
        try:
            keys.change(obj, form.rights())
        except KeyRevoked as error:
            self.message_user(request, str(error), messages.ERROR)

    @admin.action(description="Revoke", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            keys.revoke(key)
            self.log_change(request, key, "revoked")
        self.message_user(request, f"{len(queryset)} revoked.")

    @admin.display(description="prompt tokens used")
    def prompt_used(self, key: ApiKey) -> str:
        return _of(key, TOTALS[0], key.limit.prompt_token_number)

    @admin.display(description="generated tokens used")
    def generated_used(self, key: ApiKey) -> str:
        return _of(key, TOTALS[1], key.limit.gen_token_number)


def _of(key: ApiKey, limit: str, number: int) -> str:
    most = getattr(key.limit, limit)
    return f"{number:,}" if most is None else f"{number:,} of {most:,}"
