"""Secrets that an installation makes for itself with their first use, and what is encrypted with them.

`cryptography` is imported where it is used: it takes seven megabytes of each web process, and only pages and Redis need it.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from app.keys.files import create_once

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class OwnSecret:
    """256 random bits in a file of their own, mode 600: one and the same for every process of the installation.

    Args:
        path: of the file; made now where it is not there. Hosts that are to read what another has sealed have the same in it.
        what: it is for, in words; keys that are derived for other purposes have nothing to do with this one's.

    Raises:
        ValueError: the file holds something else.
        OSError: it can be neither read nor made.
    """

    def __init__(self, path: Path, what: str) -> None:
        if not path.exists():
            create_once(path, secrets.token_hex(_KEY_BYTES).encode() + b"\n")
        self._secret = bytes.fromhex(path.read_text("ascii"))
        self._what = what
        if len(self._secret) != _KEY_BYTES:
            raise ValueError(f"the key of the {what} is not 64 hexadecimal digits")

    def derived(self, purpose: str) -> bytes:
        """32 bytes for one purpose."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = f"facedex {self._what} {purpose}".encode()
        return HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(self._secret)

    def box(self, purpose: str) -> "SealedBox":
        """What encrypts for one purpose."""
        return SealedBox(self.derived(purpose))


class SealedBox:
    """Encrypts and authenticates (AES-256-GCM); safe to use from several threads."""

    def __init__(self, key: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)
        self._unreadable = (InvalidTag, ValueError)

    def seal(self, name: str, content: bytes) -> bytes:
        """The content encrypted; it can be read under this name only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes | None:
        """The content; None where it was not sealed by this key under this name, or was changed since."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except self._unreadable:
            return None
