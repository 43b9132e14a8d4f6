"""Passwords that were imported as bcrypt hashes."""

import time

import bcrypt
import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.auth import issue_tokens, log_in
from accounts.errors import WrongLogin
from accounts.models import User

HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", "accounts.hashers.ImportedBCryptHasher"]
LONG = "ä" * 35 + "€uro and much more that bcrypt never read"  # the cut goes through a character


@pytest.fixture(autouse=True)
def real_hashers(settings, quick_passwords):
    settings.PASSWORD_HASHERS = HASHERS


def imported(name: str, password: str, cost: int = 4, kind: bytes = b"2b") -> User:
    hashed = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).replace(b"$2b$", b"$%b$" % kind)
    user = User.objects.create_user(name)
    User.objects.filter(pk=user.pk).update(password="bcrypt$" + hashed.decode())
    return User.objects.get(pk=user.pk)


def test_these_are_the_settings(settings):
    from vllm_portal import settings as written

    assert written.PASSWORD_HASHERS == HASHERS


@pytest.mark.parametrize(
    ("kind", "password"), [(b"2a", "correct horse"), (b"2y", ""), (b"2b", LONG), (b"2b", "x" * 72), (b"2b", "x" * 73)]
)
def test_an_imported_password_works_and_is_hashed_anew(db, kind, password):
    carol = imported("carol", password, kind=kind)
    access, _ = issue_tokens(carol)
    assert log_in("carol", password) == carol
    after = User.objects.get(pk=carol.pk)
    assert after.password.startswith("pbkdf2_sha256$")
    assert after.token_version == carol.token_version
    assert log_in("carol", password) == carol
    assert APIClient().get("/api/v1/key", HTTP_AUTHORIZATION=f"Bearer {access}").status_code == 200


@pytest.mark.parametrize("given", ["wrong", "x" * 73, "x" * 4096, LONG, "nul\x00", ""])
def test_a_wrong_one_is_a_wrong_one(db, given):
    imported("carol", "correct horse")
    with pytest.raises(WrongLogin):
        log_in("carol", given)


@pytest.mark.parametrize(
    "hashed", ["bcrypt$", "bcrypt$junk", "bcrypt$$2b$04$short", "bcrypt$$2b$99$" + "a" * 53, "bcrypt"]
)
def test_a_broken_hash_lets_nobody_in_and_is_no_server_error(db, hashed):
    carol = imported("carol", "x")
    User.objects.filter(pk=carol.pk).update(password=hashed)
    body = {"username": "carol", "password": "x"}
    assert APIClient().post("/token", body, format="json").status_code == 401
    assert Client().post("/login", body).status_code == 200


def test_a_password_too_long_for_bcrypt_is_no_server_error(db):
    imported("carol", "x")
    body = {"username": "carol", "password": "ü" * 2000}
    assert APIClient().post("/token", body, format="json").status_code == 401


def _cpu_s(name: str) -> float:
    spent = []
    for _ in range(3):
        began = time.thread_time()
        with pytest.raises(WrongLogin):
            log_in(name, "wrong")
        spent.append(time.thread_time() - began)
    return min(spent)


@pytest.mark.parametrize("cost", [4, 10])
def test_a_refusal_takes_as_long_as_for_a_name_that_nobody_has(db, cost):
    imported("carol", "correct horse", cost=cost)
    nobody, carol = _cpu_s("nobody"), _cpu_s("carol")
    assert 0.5 < carol / nobody < 2
