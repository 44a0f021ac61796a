"""Where a reader of a gallery's changes is: the text that it shows to get what comes after."""

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.errors import InvalidRequest

_TEXT: Final = re.compile(r"([0-9a-f]{32})\.(\d{1,18})(?:\.(\d{1,18}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """All changes up to `version` have been read.

    Attributes:
        token: the domain's `gallery_token` when this was told: it names one state of one gallery for good. Numbers do not: a
            backup that is restored gives them again.
        version: of the last change that was read.
        began: where everything is being read, in pages: the domain's version at the first one. Who was gone by then was on no
            page, and need not be told of.
    """

    token: UUID
    version: int
    began: int | None = None

    def __str__(self) -> str:
        return f"{self.token.hex}.{self.version}" + ("" if self.began is None else f".{self.began}")

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read it.

        Raises:
            InvalidRequest: it is none that this service gives.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InvalidRequest("'since' is no version that this service gave.")
        token, version, began = found.groups()
        return cls(UUID(token), int(version), None if began is None else int(began))

    def can_go_on(self, told_at: int | None, pruned: int) -> bool:
        """Whether nothing is missing between here and the domain's present version.

        Args:
            told_at: the version that the token was the domain's with; None: it never was, as far as is known.
            pruned: tombstones up to this version may be gone.
        """
        told_since = self.version if self.began is None else self.began
        return told_at is not None and max(self.version, told_since) <= told_at and told_since >= pruned
