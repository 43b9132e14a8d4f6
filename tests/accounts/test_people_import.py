"""Users from a CSV file: looked at first, done when told to, and a link for each to set a password."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile

from accounts.models import User
from accounts.people_import import UnreadableTable, read
from accounts.quotas import MOST

PAGE = "/admin/accounts/user/import/"


@pytest.fixture
def admin(client, root):
    client.force_login(root)
    return client


def send(admin, text, **more):
    return admin.post(PAGE, {"file": SimpleUploadedFile("people.csv", text.encode()), **more})


def names() -> list[str]:
    return sorted(User.objects.values_list("username", flat=True))


@pytest.mark.django_db
def test_a_look_makes_nobody(admin):
    before = names()
    page = send(admin, "username,role\ncarol,\ndave,admin\n").content.decode()
    assert names() == before
    assert "carol" in page
    assert "Nothing has been done yet" in page


@pytest.mark.django_db
def test_the_users_get_what_the_lines_say_and_a_link_each(admin, client):
    text = (
        "\ufeffUsername, role, weight, prompt_token_limit, gen_token_limit, email, first_name\n"
        'carol,User,2.5,100,50,carol@example.org,"Carol, the first"\n'
        "dave,,,,,,\n"
    )
    page = admin.post(PAGE, {"text": text, "confirmed": "yes"}).content.decode()
    carol, dave = User.objects.get(username="carol"), User.objects.get(username="dave")
    assert (carol.role, carol.weight, carol.email, carol.first_name) == (
        "User", 2.5, "carol@example.org", "Carol, the first",
    )  # fmt: skip
    assert (carol.token_limit.prompt_token_limit, carol.token_limit.gen_token_limit) == (100, 50)
    assert (dave.role, dave.weight, dave.token_limit.gen_token_limit) == ("User", 1.0, 1000)
    assert not carol.has_usable_password()
    assert LogEntry.objects.filter(object_repr="carol").count() == 1

    link = re.findall(r"http://testserver(/password/[^<]+)", page)[0]
    client.logout()
    form = client.get(link, follow=True)
    done = client.post(form.request["PATH_INFO"], {"new_password1": "correct horse", "new_password2": "correct horse"})
    assert done.status_code == 302, done.context["form"].errors
    assert done.url == "/login"
    assert client.login(username="carol", password="correct horse")
    client.logout()
    assert "does not count any more" in client.get(link, follow=True).content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("carol,boss,,", "role 'boss'"),
        ("carol,,0,", "weight '0'"),
        ("carol,,nan,", "weight 'nan'"),
        ("carol,,,-1", "prompt_token_limit '-1'"),
        (f"carol,,,{MOST + 1}", "prompt_token_limit"),
        ("carol,,,1e3", "prompt_token_limit"),
        ("carol,,,\u0663", "prompt_token_limit"),
        ("al ice,,,", "valid username"),
        (",User,,", "names nobody"),
        ("ROOT,,,", "already"),
        ("dave,,,", "Line 2 has the same name"),
        ("carol,,,1,2", "5 cells"),
        ("a" * 151 + ",,,", "150"),
    ],
)
def test_a_wrong_line_says_why_and_holds_up_no_other(admin, line, problem):
    text = f"username,role,weight,prompt_token_limit\nDave,,,\n{line}\n"
    page = admin.post(PAGE, {"text": text, "confirmed": "yes"})
    (refused,) = page.context["refused"]
    assert problem in " ".join(refused.problems)
    assert refused.number == 3
    assert sorted(name.casefold() for name in names()) == ["alice", "bob", "dave", "root"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("carol,dave\n", "username"),
        ("username,password\ncarol,secret\n", "no column 'password'"),
        ("username,role,username\n", "twice"),
        ('username\n"carol\n', "line"),
        ("username\n" + "carol\n" * 5001, "5000"),
    ],
)
def test_what_is_no_table_says_so(text, reason):
    with pytest.raises(UnreadableTable, match=f"(?i){reason}"):
        read(text)


@pytest.mark.django_db
def test_semicolons_do_too():
    (line,) = read("username;role\ncarol;admin\n")
    assert (line.username, line.values, line.problems) == ("carol", {"role": "Admin"}, [])


@pytest.mark.django_db
def test_a_name_that_was_taken_since_the_look_is_a_problem_of_its_line(admin, monkeypatch):
    from accounts import people_import

    real = people_import._find_twins
    monkeypatch.setattr(people_import, "_find_twins", lambda lines: (real(lines), User.objects.create_user("carol")))
    page = admin.post(PAGE, {"text": "username\ncarol\ndave\n", "confirmed": "yes"})
    assert [name for name, _ in page.context["made"]] == ["dave"]
    assert [line.username for line in page.context["refused"]] == ["carol"]


@pytest.mark.django_db
def test_a_file_of_other_bytes_is_no_fault_of_the_portal(admin):
    for content in (b"\xff\xfe\x00u", b"\x00" * 10, b"x" * (2**20 + 1)):
        answer = admin.post(PAGE, {"file": SimpleUploadedFile("people.csv", content)})
        assert (answer.status_code, bool(answer.context["error"])) == (200, True)
    assert admin.post(PAGE, {}).context["error"]


@pytest.mark.django_db
def test_a_cell_is_text_on_the_page(admin):
    page = send(admin, "username\n<script>alert(1)</script>\n").content.decode()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.django_db
def test_only_admins_come_here(client, alice):
    client.force_login(alice)
    assert client.get(PAGE).status_code == 302
    assert client.post(PAGE, {"text": "username\nerin\n", "confirmed": "yes"}).status_code == 302
    assert "erin" not in names()


@pytest.mark.django_db
def test_an_admin_makes_links_for_those_who_are_there(admin, alice):
    answer = admin.post("/admin/accounts/user/", {"action": "make_links", "_selected_action": [alice.pk]}, follow=True)
    assert re.search(r"alice sets a password at http://testserver/password/\S+", answer.content.decode())
