"""Entries as a store outside the installation has them: under names that tell nothing, encrypted, bound to their names."""

import hmac
from pathlib import Path

from app.face_cache.entry import EntryKey
from app.keys.own_secret import OwnSecret


class Sealing:
    """Seals with a key of the installation's own, made with the first use: mode 600, in the storage folder.

    Args:
        path: of the key. Hosts that are to find one another's entries have the same in it.
    """

    def __init__(self, path: Path) -> None:
        secret = OwnSecret(path, "face cache")
        self._names = secret.derived("names")
        box = secret.box("values")
        self.seal, self.open = box.seal, box.open
        self.id = secret.derived("id").hex()[:16]
        """Tells this key from another; says nothing of it."""

    def name(self, key: EntryKey) -> str:
        """The entry's name: whoever has a picture cannot find out by it whether it was seen. 32 hexadecimal digits."""
        domain = key.domain
        parts = (str(domain.uid), str(domain.epoch), domain.model, domain.contract, key.effort, key.sha256.hex())
        return hmac.digest(self._names, "\0".join(parts).encode(), "sha256").hex()[:32]
