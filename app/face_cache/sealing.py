"""Entries as a store outside the installation has them: under names that tell nothing, encrypted, bound to their names."""

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.face_cache.entry import EntryKey
from app.keys.files import create_once

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Sealing:
    """Seals with a key of the installation's own, made with the first use: mode 600, in the storage folder.

    Args:
        path: of the key. Hosts that are to find one another's entries have the same in it.
    """

    def __init__(self, path: Path) -> None:
        secret = _secret(path)
        self._names = _derived(secret, b"names")
        self._cipher = AESGCM(_derived(secret, b"values"))
        self.id = _derived(secret, b"id").hex()[:16]
        """Tells this key from another; says nothing of it."""

    def name(self, key: EntryKey) -> str:
        """The entry's name: whoever has a picture cannot find out by it whether it was seen. 32 hexadecimal digits."""
        domain = key.domain
        parts = (str(domain.uid), str(domain.epoch), domain.model, domain.contract, key.effort, key.sha256.hex())
        return hmac.digest(self._names, "\0".join(parts).encode(), "sha256").hex()[:32]

    def seal(self, name: str, content: bytes) -> bytes:
        """The content encrypted; it can be read under this name only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes | None:
        """The content; None where it was not sealed by this key under this name, or was changed since."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            return None


def _secret(path: Path) -> bytes:
    if not path.exists():
        create_once(path, secrets.token_hex(_KEY_BYTES).encode() + b"\n")
    secret = bytes.fromhex(path.read_text("ascii"))
    if len(secret) != _KEY_BYTES:
        raise ValueError("the key of the face cache is not 64 hexadecimal digits")
    return secret


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"facedex face cache " + purpose).derive(secret)
