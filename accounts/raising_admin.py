"""The admins' page that raises the token limits of the chosen users."""

from typing import TYPE_CHECKING

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts import quotas
from accounts.models import User
from accounts.number_fields import number_field
from accounts.tables import counted

if TYPE_CHECKING:
    from accounts.admin import PeopleAdmin

NAMED = 20


class RaiseForm(forms.Form):
    prompt = number_field("Prompt tokens more", required=False)
    generated = number_field("Generated tokens more", required=False)

    def clean(self) -> dict[str, int]:
        given = {name: self.cleaned_data.get(name) or 0 for name in self.fields}
        if not self.errors and not any(given.values()):
            raise forms.ValidationError("Say by how many tokens.")
        return given


@admin.action(description="Raise the token limits by …", permissions=["change"])
def raise_limits(page: "PeopleAdmin", request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
    """Asks by how much, then does it; the list's own form, sent twice."""
    form = RaiseForm(request.POST if "raise" in request.POST else None)
    if form.is_valid():
        users = list(queryset)
        for user in users:
            quotas.raise_limits(user, **form.cleaned_data)
            page.log_change(
                request, user, "token limits raised by {prompt:,} and {generated:,}".format(**form.cleaned_data)
            )
        page.message_user(request, f"Raised the limits of {counted(len(users), 'user')}.")
        return None
    named = list(queryset.values_list("username", flat=True)[:NAMED])
    context = {
        **page.admin_site.each_context(request), "title": "Raise token limits", "form": form, "named": named,
        "more": queryset.count() - len(named), "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "across": request.POST.get("select_across", "0"),
    }  # fmt: skip
    return render(request, "admin/accounts/user/raise.html", context)
