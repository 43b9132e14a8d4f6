"""Which pages there are. Those of the admin come from its registry, so that a new one is measured, too."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from django.contrib import admin
from django.db.models import Model
from django.test import RequestFactory
from django.urls import reverse

from accounts import password_links
from accounts.models import User
from bench.at_scale.rows import ADMIN, STUDENT
from engines.models import Engine
from engines.states import State

HTML = "text/html"
SEARCHED = ("user-77", "user", "xyzzy")
"""Something, everything and nothing."""


@dataclass(frozen=True)
class Page:
    """`who`: a username; "": nobody is logged in."""

    name: str
    path: str
    who: str
    accept: str = HTML


def all_of_them() -> Iterator[Page]:
    yield from _of_strangers()
    for who in (STUDENT, ADMIN):
        yield from _of_everybody(who)
    yield from _of_admins()
    yield from _tables()


def _of_strangers() -> Iterator[Page]:
    yield Page("home, logged out", "/", "")
    yield Page("login", "/login", "")
    request = RequestFactory(SERVER_NAME="localhost").get("/")
    link = password_links.link(User.objects.get(username=STUDENT), request)
    yield Page("set a password", link.removeprefix("http://localhost"), "")


def _of_everybody(who: str) -> Iterator[Page]:
    own = Engine.objects.filter(owner__username=STUDENT)
    ready, failed = own.filter(state=State.READY).first(), own.filter(state=State.FAILED).first()
    yield Page("home: engines", "/", who)
    yield Page("cards, fetched anew", "/cards", who)
    yield Page("engine, ready", f"/engine/{ready.pk}", who)
    yield Page("engine, failed", f"/engine/{failed.pk}", who)
    yield Page("log of an engine", f"/api/v1/engines/{ready.pk}/logs", who, "application/json")
    yield Page("start form", "/engine/new", who)
    yield Page("start form, again", f"/engine/new?again={failed.pk}", who)
    yield Page("playground", "/playground", who)
    yield Page("conversations of the playground", "/api/v1/conversations", who, "application/json")
    yield Page("keys", "/keys", who)
    yield Page("password", "/password", who)
    for days in (7, 30, 90, 365):
        yield Page(f"usage, {days} days", f"/usage?days={days}&whose=mine", who)
    yield Page("usage by model as CSV", f"/api/v1/usage/summary?group_by=model&as=csv&user={_pk(who)}", who, "*/*")
    yield Page("active models", "/active_models/", who)
    yield Page("API docs", "/api/docs", who)


def _of_admins() -> Iterator[Page]:
    for days in (7, 30, 90, 365):
        yield Page(f"everybody's usage, {days} days", f"/usage?days={days}", ADMIN)
    yield Page("first steps", "/welcome", ADMIN)
    yield Page("admin: dashboard", "/admin/", ADMIN)
    yield Page("admin: settings", "/admin/settings/", ADMIN)
    yield Page("admin: cached models", "/admin/cached-models/", ADMIN)
    for text in SEARCHED:
        yield Page(f"admin: search for {text}", f"/admin/search/?s={text}&extended=1", ADMIN)
    yield Page("admin: import users", "/admin/accounts/user/import/", ADMIN)
    yield Page("admin: password of a user", f"/admin/accounts/user/{_pk(STUDENT)}/password/", ADMIN)


def _pk(who: str) -> int:
    return User.objects.values_list("pk", flat=True).get(username=who)


def _tables() -> Iterator[Page]:
    request = RequestFactory().get("/")
    request.user = User.objects.get(username=ADMIN)
    for model, page in admin.site._registry.items():
        base, title = f"admin:{model._meta.app_label}_{model._meta.model_name}_", model._meta.verbose_name_plural
        yield Page(f"admin: {title}", reverse(f"{base}changelist"), ADMIN)
        yield Page(f"admin: {title}, second page", f"{reverse(f'{base}changelist')}?p=2", ADMIN)
        for one in page.list_filter:
            if isinstance(one, str) and (choices := model._meta.get_field(one).choices):
                query = f"?{one}__exact={quote(str(choices[0][0]))}"
                yield Page(f"admin: {title}, {one} {choices[0][0]}", f"{reverse(f'{base}changelist')}{query}", ADMIN)
        if page.search_fields:
            for text in SEARCHED:
                yield Page(f"admin: {title}, searched for {text}", f"{reverse(f'{base}changelist')}?q={text}", ADMIN)
        if page.has_add_permission(request):
            yield Page(f"admin: {title}, add", reverse(f"{base}add"), ADMIN)
        if (row := _one(model)) is not None:
            yield Page(f"admin: {title}, one", reverse(f"{base}change", args=(row.pk,)), ADMIN)
            yield Page(f"admin: {title}, history of one", reverse(f"{base}history", args=(row.pk,)), ADMIN)
            if page.has_delete_permission(request, row):
                yield Page(f"admin: {title}, delete one", reverse(f"{base}delete", args=(row.pk,)), ADMIN)


def _one(model: type[Model]) -> Model | None:
    """The student's, where it is somebody's."""
    names = {field.name for field in model._meta.get_fields()}
    rows = model._default_manager.order_by("pk")
    if model is User:
        return rows.get(username=STUDENT)
    owner = next((name for name in ("user", "owner") if name in names), None)
    return (rows.filter(**{f"{owner}__username": STUDENT}).first() if owner else None) or rows.first()
