"""The admins' page that takes a table of users: it says what would come of it, and does it when it is told to."""

from typing import TYPE_CHECKING

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from accounts import password_links
from accounts.people_import import COLUMNS, Line, UnreadableTable, apply, read

if TYPE_CHECKING:
    from accounts.admin import PeopleAdmin

MOST_BYTES = 2**20


@require_http_methods(["GET", "HEAD", "POST"])
def import_page(request: HttpRequest, people_admin: "PeopleAdmin") -> HttpResponse:
    if not people_admin.has_add_permission(request):
        raise PermissionDenied
    context = {
        **people_admin.admin_site.each_context(request), "title": "Import users", "columns": COLUMNS,
    }  # fmt: skip
    if request.method == "POST":
        try:
            text = _text(request)
            lines = read(text)
        except UnreadableTable as error:
            context |= {"error": str(error)}
        else:
            context |= {"text": text, "lines": lines}
            if "confirmed" in request.POST:
                context |= {"made": _make(people_admin, request, lines)}
            context |= {"refused": [line for line in lines if line.problems]}
    return render(request, "admin/accounts/user/import.html", context)


def _text(request: HttpRequest) -> str:
    """Raises UnreadableTable."""
    file = request.FILES.get("file")
    if file is None:
        return request.POST.get("text", "")
    if file.size > MOST_BYTES:
        raise UnreadableTable("It is larger than 1 MiB; split it.")
    try:
        return file.read().decode()
    except UnicodeDecodeError:
        raise UnreadableTable("It is not UTF-8; save it as a CSV file in UTF-8.") from None


def _make(people_admin: "PeopleAdmin", request: HttpRequest, lines: list[Line]) -> list[tuple[str, str]]:
    """(name, link to set a password) of each new user."""
    made = []
    for user in apply(lines):
        people_admin.log_addition(request, user, [{"added": {"name": "import", "object": str(user)}}])
        made.append((user.username, password_links.link(user, request)))
    return made
