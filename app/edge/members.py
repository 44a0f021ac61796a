"""Who may be recognised here, and what a source of members says about them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who may be recognised here for some time.

    Attributes:
        key: what they are known by: `reservationCode-memberNo`, or a person's id.
        name: what they are called in events.
        valid_from, valid_until: Unix seconds; they match from the first on, and no more from the second on. None is unbounded.
        locks: the door locks that they may open.
    """

    key: str
    name: str
    valid_from: float | None = None
    valid_until: float | None = None
    locks: frozenset[str] = frozenset()

    def is_valid(self, now: float) -> bool:
        """Whether they match at that time, in Unix seconds."""
        return (self.valid_from is None or now >= self.valid_from) and (
            self.valid_until is None or now < self.valid_until
        )


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class MemberTemplates:
    """A member and their templates: float32, (T, D), T at least 1, of any length; the gallery normalises them."""

    member: Member
    embeddings: NDArray[Any]


@dataclass(frozen=True, slots=True)
class GalleryDelta:
    """What a source says has changed.

    Attributes:
        contract: `EmbeddingContract.id` of all embeddings in it.
        version: the source's name for the state that this leads to; empty where it has none.
        full: it replaces everything: who is not in it is no member any more.
        upserts: new members, and members of whom something has changed.
        removed: keys of those who are gone.
        unusable: keys of those whose templates cannot be compared with; they count as removed.
    """

    contract: str
    version: str
    full: bool
    upserts: tuple[MemberTemplates, ...] = ()
    removed: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
