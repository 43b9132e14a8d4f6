"""Encryption of what must be kept but never shown: Hugging Face tokens, engine keys."""

import base64
import hashlib
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken

from vllm_portal.errors import OperatorError
from vllm_portal.secret_keys import secret_key


@lru_cache(maxsize=1)
def _fernet() -> Fernet:
    digest = hashlib.sha256(secret_key("encryption").encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def encrypt(text: str) -> str:
    return _fernet().encrypt(text.encode()).decode() if text else ""


def decrypt(text: str) -> str:
    """Raises OperatorError when the secret changed since the text was encrypted."""
    try:
        return _fernet().decrypt(text.encode()).decode() if text else ""
    except InvalidToken:
        raise OperatorError("secrets/encryption does not fit the database: restore it from the backup") from None
