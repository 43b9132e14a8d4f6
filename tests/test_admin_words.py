"""The admin pages are what Django takes for sound, and speak as people do: no name of a column where a word belongs."""

import re

from django.contrib import admin
from django.contrib.admin.utils import flatten, label_for_field

from accounts.admin import TokenLimitForm
from accounts.keys_admin import KeyAdminForm
from vllm_portal import urls

assert urls.urlpatterns  # the pages come with them

MACHINES = re.compile(r"\b(api|gpu|gpus|cpu|kv|uuid|hf|gen|len|vllm|ms|dtype|db|ttft)\b")
"""As columns are named. Written by people: API, GPU, UUID, Hugging Face, generated …"""
UNITS = re.compile(r", in ms$")


def labels(page: admin.ModelAdmin) -> set[str]:
    declared = flatten([fields["fields"] for _, fields in page.fieldsets or ()])
    names = flatten([*page.list_display, *(page.fields or ()), *declared, *page.readonly_fields])
    names += [one for one in page.list_filter if isinstance(one, str)]
    return {str(label_for_field(name, page.model, page)) for name in names if name != "action_checkbox"}


def test_django_finds_nothing_wrong_with_them():
    assert admin.site._registry
    assert admin.site.check(None) == []


def test_no_label_is_the_name_of_a_column():
    said = {}
    for model, page in admin.site._registry.items():
        names = {str(model._meta.verbose_name), str(model._meta.verbose_name_plural)} | labels(page)
        said[model._meta.label] = {name for name in names if MACHINES.search(UNITS.sub("", name))}
    assert {model: names for model, names in said.items() if names} == {}


def test_the_limits_are_called_by_words():
    for form in (TokenLimitForm, KeyAdminForm):
        assert form.base_fields["gen_token_limit"].label == "Generated token limit"
