"""From the text of a key to whoever calls with it."""

from datetime import UTC, datetime

import structlog

from app.keys.admin_key import AdminKey
from app.keys.keeper import KeyKeeper
from app.keys.principal import ADMIN, Principal
from app.keys.records import why_refused
from app.keys.secrets import prefix_of

log = structlog.stdlib.get_logger("facedex.keys")


class Authenticator:
    """Says whose a key is."""

    def __init__(self, admin_key: AdminKey, keeper: KeyKeeper) -> None:
        self._admin_key = admin_key
        self._keeper = keeper

    def principal(self, given: str, limit_s: float) -> Principal | None:
        """Whose key it is; None where it is nobody's: malformed, unknown, revoked, expired. The log says which.

        Args:
            limit_s: the most to wait for the database.

        Raises:
            KeysUnavailable: the database is away, and so is a snapshot that could be gone by.
        """
        if self._admin_key.accepts(given):
            return ADMIN
        prefix = prefix_of(given)
        if prefix is None:
            return None
        record = self._keeper.find(prefix, limit_s)
        reason = why_refused(record, given, prefix, datetime.now(UTC))
        if reason is not None or record is None:
            log.warning(f"[API] An API key was refused: {reason}", prefix=prefix)
            return None
        return record.principal

    def is_plausible(self, given: str) -> bool:
        """Whether asking the database for it may be worth while, found out without it; without a snapshot its form decides."""
        if self._admin_key.accepts(given):
            return True
        prefix, snapshot = prefix_of(given), self._keeper.snapshot
        return prefix is not None and (snapshot is None or snapshot.find(prefix) is not None)
