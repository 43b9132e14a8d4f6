"""People in the admin pages: who they are, what they may spend, what they have spent."""

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import InlineModelAdmin
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.html import format_html
from unfold.admin import StackedInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from accounts import groups_admin, password_links, people, quotas
from accounts.errors import NotYourself
from accounts.keys import PACES
from accounts.keys_admin import KeyInline
from accounts.keys_serializers import COUNTABLE
from accounts.models import Role, TokenLimit, User
from accounts.number_fields import number_field
from accounts.people_import_admin import import_page
from accounts.raising_admin import raise_limits
from accounts.tables import Table, counted

admin.site.site_header = admin.site.site_title = "vllm-portal"
admin.site.index_title = "Administration"


class NewUserForm(UserCreationForm):
    class Meta(UserCreationForm.Meta):
        model = User
        fields = ("username", "role")

    def clean_username(self) -> str:
        username = super().clean_username()
        if username and User.objects.filter(username__iexact=username).exists():
            raise forms.ValidationError("There is a user of this name already.")
        return username


class UserForm(UserChangeForm):
    class Meta(UserChangeForm.Meta):
        model = User
        fields = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in {"role", "is_active", "weight", "groups"} & set(self.fields):
            # Changed means: differs from what the page showed. An hour-old page gives no rights back.
            self.fields[name].show_hidden_initial = True

    def _get_validation_exclusions(self) -> set[str]:
        """A name that came from elsewhere and would not be allowed today does not keep the rest from being changed."""
        excluded = super()._get_validation_exclusions()
        return excluded if "username" in self.changed_data else {*excluded, "username"}

    def _save_m2m(self) -> None:
        if "groups" in self.changed_data:
            super()._save_m2m()


class OwnUserForm(UserForm):
    """An admin's form for themselves."""

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        if given.get("role") != Role.ADMIN or not given.get("is_active"):
            raise forms.ValidationError("You cannot take your own rights away; another admin can.")
        return given


def _tokens(label: str) -> forms.IntegerField:
    """With the number that the page showed beside the one that was typed: see `TokenLimitForm.save`."""
    return number_field(label, show_hidden_initial=True)


def _pace(most: int = quotas.MOST) -> forms.IntegerField:
    return forms.IntegerField(
        required=False, min_value=0, max_value=most, show_hidden_initial=True, widget=UnfoldAdminIntegerFieldWidget,
        help_text="Empty: no such limit.",
    )  # fmt: skip


LINKS = 20
TOKENS = ("prompt_token_limit", "prompt_token_number", "gen_token_limit", "gen_token_number")


class TokenLimitForm(forms.ModelForm):
    prompt_token_limit = _tokens("Prompt token limit")
    gen_token_limit = _tokens("Generated token limit")
    prompt_token_number = _tokens("Prompt tokens used")
    gen_token_number = _tokens("Generated tokens used")
    requests_per_minute = _pace(COUNTABLE)
    tokens_per_minute = _pace()
    tokens_per_day = _pace()
    tokens_per_month = _pace()
    requests_at_once = _pace(COUNTABLE)

    class Meta:
        model = TokenLimit
        fields = (*TOKENS, *PACES)

    def clean(self) -> dict[str, Any]:
        given = super().clean()
        if any(self._shown(name) is None for name in TOKENS):
            raise forms.ValidationError("This page is incomplete; load it again.")
        return given

    def _shown(self, name: str) -> int | None:
        """What the page said before somebody typed."""
        widget, html_name = self.fields[name].hidden_widget(), self.add_initial_prefix(name)
        try:
            return self.fields[name].clean(widget.value_from_datadict(self.data, self.files, html_name))
        except forms.ValidationError:
            return None

    def save(self, commit: bool = True) -> TokenLimit:
        """Applies what was typed and nothing else. The page may be an hour old: a number becomes a difference, so that
        what was spent in that hour stays spent."""
        typed = {name: self.cleaned_data[name] for name in self.changed_data if name in TOKENS}
        more = {name: value - self._shown(name) for name, value in typed.items()}
        user = self.instance.user
        quotas.set_limits(user, typed.get("prompt_token_limit"), typed.get("gen_token_limit"))
        quotas.add_numbers(user, more.get("prompt_token_number", 0), more.get("gen_token_number", 0))
        quotas.set_paces(user, {name: self.cleaned_data[name] for name in self.changed_data if name in PACES})
        return self.instance

    def save_m2m(self) -> None:
        """Nothing; the admin calls it."""


class TokenLimitInline(StackedInline):
    model = TokenLimit
    form = TokenLimitForm
    fields = (
        ("prompt", "generated"),
        ("prompt_token_limit", "prompt_token_number"),
        ("gen_token_limit", "gen_token_number"),
        *PACES,
    )
    readonly_fields = ("prompt", "generated")
    can_delete = False
    template_before = "accounts/inline_errors.html"  # unfold shows those of fields alone
    verbose_name = verbose_name_plural = "limits: what may be spent in total and by time, and what was"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Each user has the one row since they were made."""
        return False

    @admin.display(description="Prompt tokens")
    def prompt(self, limit: TokenLimit) -> str:
        return _bar_with_rest(limit.prompt_token_number, limit.prompt_token_limit)

    @admin.display(description="Generated tokens")
    def generated(self, limit: TokenLimit) -> str:
        return _bar_with_rest(limit.gen_token_number, limit.gen_token_limit)


@admin.register(User)
class PeopleAdmin(UserAdmin, Table):
    form = UserForm
    change_password_form = AdminPasswordChangeForm
    add_form = NewUserForm
    fieldsets = (
        (None, {"fields": ("username", "password", "role", "is_active", "weight", "groups")}),
        ("About", {"fields": ("first_name", "last_name", "email")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("username", "role", "password1", "password2")}),)
    readonly_fields = ("last_login", "date_joined")
    filter_horizontal = ()
    list_display = ("username", "role", "is_active", "prompt_used", "prompt_left", "generated_used", "generated_left")
    list_filter = ("role", "is_active")
    list_select_related = ("token_limit",)
    search_fields = ("first_name", "last_name", "email")
    person = "pk"
    actions = ("disable", "enable", raise_limits, "double_limits", "make_links")

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(partial(import_page, people_admin=self))
        return [path("import/", page, name="accounts_user_import"), *super().get_urls()]

    def get_inlines(self, request: HttpRequest, obj: User | None) -> list[type[InlineModelAdmin]]:
        return [TokenLimitInline, KeyInline] if obj else []

    def get_form(self, request: HttpRequest, obj: User | None = None, **kwargs: Any) -> type[forms.ModelForm]:
        if obj is not None and obj.pk == request.user.pk:
            kwargs["form"] = OwnUserForm
        return super().get_form(request, obj, **kwargs)

    def save_model(self, request: HttpRequest, obj: User, form: forms.ModelForm, change: bool) -> None:
        """Only what was changed: the rest of the form may be older than the row."""
        if not change:
            super().save_model(request, obj, form, change)
        elif changed := set(form.changed_data) & {field.name for field in User._meta.concrete_fields}:
            obj.save(update_fields=changed)

    def save_related(self, request: HttpRequest, form: forms.ModelForm, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if "groups" in form.changed_data:
            groups_admin.tell()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.pk != request.user.pk)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list, dict, set, list]:
        """What goes with them in numbers: somebody has thousands of messages. Conversations go with their user, though
        nobody may delete them here one by one; what they cost stays."""
        users = list(objs)
        counts = {"users": len(users)}
        for name in ("conversations", "api_keys"):
            relation = User._meta.get_field(name)
            rows = relation.related_model._default_manager.filter(user__in=users).count()
            counts[str(relation.related_model._meta.verbose_name_plural)] = rows
        return [str(user) for user in users], counts, set(), []

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """One by one: `User.delete` tells the live counters."""
        for user in queryset.exclude(pk=request.user.pk):
            user.delete()

    @admin.display(description="prompt tokens used", ordering="token_limit__prompt_token_number")
    def prompt_used(self, user: User) -> str:
        return _bar(user.token_limit.prompt_token_number, user.token_limit.prompt_token_limit)

    @admin.display(description="left")
    def prompt_left(self, user: User) -> str:
        return _left(user.token_limit.prompt_token_number, user.token_limit.prompt_token_limit)

    @admin.display(description="generated tokens used", ordering="token_limit__gen_token_number")
    def generated_used(self, user: User) -> str:
        return _bar(user.token_limit.gen_token_number, user.token_limit.gen_token_limit)

    @admin.display(description="left")
    def generated_left(self, user: User) -> str:
        return _left(user.token_limit.gen_token_number, user.token_limit.gen_token_limit)

    @admin.action(description="Disable: no login, and no token counts", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._set_active(request, queryset, False)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._set_active(request, queryset, True)

    def _set_active(self, request: HttpRequest, queryset: QuerySet[User], active: bool) -> None:
        done = 0
        for user in queryset:
            try:
                people.set_active(user, active, by=request.user)
                self.log_change(request, user, "enabled" if active else "disabled")
                done += 1
            except NotYourself as error:
                self.message_user(request, str(error), messages.WARNING)
        self.message_user(request, f"{'Enabled' if active else 'Disabled'} {counted(done, 'user')}.")

    @admin.action(description="Double the token limits", permissions=["change"])
    def double_limits(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            quotas.double_limits(user)
            self.log_change(request, user, "token limits doubled")
        self.message_user(request, f"Doubled the limits of {counted(len(queryset), 'user')}.")

    @admin.action(description="Make links to set a password", permissions=["change"])
    def make_links(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        if len(queryset) > LINKS:
            self.message_user(request, f"At most {LINKS} at a time.", messages.ERROR)
            return
        for user in queryset:
            text = f"{user.username} sets a password at {password_links.link(user, request)}"
            self.message_user(request, text, messages.WARNING)
            self.log_change(request, user, "link to set a password made")


def _bar(number: int, limit: int) -> str:
    """In numbers, and as a bar."""
    text = f"{number:,} of {limit:,}"
    bar = '<progress class="block mt-1 w-full" max="{}" value="{}" aria-label="{}"></progress>'
    return format_html(f'<div class="grow">{{}}{bar}</div>', text, max(limit, 1), min(number, limit), text)


def _bar_with_rest(number: int, limit: int) -> str:
    return format_html('{}<span class="block mt-1">{} left</span>', _bar(number, limit), _left(number, limit))


def _left(number: int, limit: int) -> str:
    return f"{max(0, limit - number):,}"
