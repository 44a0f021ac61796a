"""Members made up for tests."""

from collections.abc import Iterable

import numpy as np

from app.edge.members import GalleryDelta, Member, MemberTemplates

DIMENSION = 16
CONTRACT = f"made-up:{DIMENSION}:0000000000000000"


def vector(seed: int, dimension: int = DIMENSION) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dimension)


def member(key: str, valid_from: float | None = None, valid_until: float | None = None, *locks: str) -> Member:
    return Member(key, f"name of {key}", valid_from, valid_until, frozenset(locks))


def templates(
    key: str, seed: int, count: int = 1, valid_from: float | None = None, valid_until: float | None = None
) -> MemberTemplates:
    """A member with `count` templates; with the same seed, the same ones."""
    rows = np.stack([vector(seed + 1_000_000 * number) for number in range(count)]).astype(np.float32)
    return MemberTemplates(member(key, valid_from, valid_until), rows)


def delta(upserts: Iterable[MemberTemplates], removed: Iterable[str] = (), *, full: bool = False) -> GalleryDelta:
    return GalleryDelta(CONTRACT, "", full, tuple(upserts), tuple(removed))
