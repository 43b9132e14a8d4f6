"""Passwords that were imported as bcrypt hashes. They are verified, and hashed anew at their owner's next login."""

import hashlib
import time
from functools import lru_cache

from django.contrib.auth.hashers import BCryptPasswordHasher, PBKDF2PasswordHasher, get_hasher

BCRYPT_READS = 72  # bytes; whoever made those hashes left the rest out, which bcrypt refuses to do by now
SAMPLE = 20_000


class ImportedBCryptHasher(BCryptPasswordHasher):
    """Django tells nobody by its timing whether a name exists, unless a password's hash is of another kind than the
    default one. So a wrong password here costs about as much CPU as it would with the default."""

    def encode(self, password: str, salt: bytes) -> str:
        computed = self._load_library().hashpw(password.encode()[:BCRYPT_READS], salt)
        return f"{self.algorithm}${computed.decode('ascii')}"

    def verify(self, password: str, encoded: str) -> bool:
        """False also for what is no bcrypt hash at all."""
        began = time.thread_time()
        try:
            if super().verify(password, encoded):
                return True
        except ValueError:  # a hash that was broken before it was imported
            pass
        _go_on(time.thread_time() - began)
        return False


def _go_on(spent_s: float) -> None:
    """Computes for as long as the default hasher would have taken longer."""
    default = get_hasher("default")
    if isinstance(default, PBKDF2PasswordHasher):
        left = default.iterations - int(spent_s / _seconds_per_iteration(default.digest().name))
        if left > 0:
            hashlib.pbkdf2_hmac(default.digest().name, b"password", b"salt", left)


@lru_cache(maxsize=1)
def _seconds_per_iteration(digest: str) -> float:
    began = time.thread_time()
    hashlib.pbkdf2_hmac(digest, b"password", b"salt", SAMPLE)
    return max(time.thread_time() - began, 1e-6) / SAMPLE
