"""Pages of members, as `app/gallery_pages.py` writes them, put together as one change."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.edge.errors import MalformedMembers
from app.edge.members import GalleryDelta, Member, MemberTemplates
from app.gallery_pages import Header, PageMember

log = structlog.stdlib.get_logger("facedex.edge.sources")


def members_of(header: Header, templates: NDArray[Any]) -> Iterator[MemberTemplates]:
    """Each member of a page with their templates, which are views of the page's."""
    start = 0
    for told in header.members:
        yield MemberTemplates(_member(told), templates[start : start + told.templates])
        start += told.templates


class Pages:
    """The pages of one answer, one after the other: what comes later counts."""

    def __init__(self) -> None:
        self._first: Header | None = None
        self._last: Header | None = None
        self._upserts: dict[str, MemberTemplates] = {}
        self._removed: dict[str, None] = {}
        self._unusable: dict[str, None] = {}

    def add(self, header: Header, templates: NDArray[Any]) -> None:
        """Take over a page. One that is `full` begins anew.

        Raises:
            MalformedMembers: it does not fit to those before.
        """
        if header.full:
            self._first, self._last = None, None
            self._upserts.clear()
            self._removed.clear()
            self._unusable.clear()
        if self._last is not None and self._last.version == header.version:
            raise MalformedMembers("The feed does not come on: two pages lead to the same version.")
        if self._first is None:
            self._first = header
        elif _what(header) != _what(self._first):
            raise MalformedMembers("The feed's pages are of different galleries.")
        self._last = header
        keys = {told.key for told in header.members}
        if len(keys) != len(header.members) or keys.intersection(header.removed):
            raise MalformedMembers("A member stands twice on one page of the feed.")
        usable = _usable(header, templates)
        for given, is_usable in zip(members_of(header, templates), usable, strict=True):
            if not is_usable:
                # One person's fault must not keep all others from changing, and above all from going.
                log.error("A member's templates cannot be used: they are taken for nobody", member=given.member.key)
                self._remove(given.member.key)
                self._unusable[given.member.key] = None
                continue
            self._upserts[given.member.key] = given
            self._removed.pop(given.member.key, None)
            self._unusable.pop(given.member.key, None)
        for key in header.removed:
            self._remove(key)
            self._unusable.pop(key, None)

    def _remove(self, key: str) -> None:
        self._upserts.pop(key, None)
        self._removed[key] = None

    def delta(self) -> GalleryDelta:
        """All of them as one change; there was at least one."""
        assert self._first is not None
        assert self._last is not None
        return GalleryDelta(
            contract=self._first.contract,
            version=self._last.version,
            full=self._first.full,
            upserts=tuple(self._upserts.values()),
            removed=() if self._first.full else tuple(self._removed),
            unusable=tuple(self._unusable),
        )


def _what(header: Header) -> tuple[str, str, int]:
    return header.source, header.contract, header.dimension


def _usable(header: Header, templates: NDArray[Any]) -> list[bool]:
    """Of each member whether all their templates are vectors that others can be compared with."""
    if not header.members:
        return []
    squares = np.einsum("nd,nd->n", templates, templates)
    fine = np.isfinite(squares) & (squares > np.finfo(squares.dtype).tiny)
    # What is too large or too small to be squared may have a direction nevertheless.
    other = np.flatnonzero(~fine)
    norms = np.linalg.norm(templates[other].astype(np.float64), axis=1)
    fine[other] = np.isfinite(norms) & (norms > 0)
    starts = np.cumsum([0, *(told.templates for told in header.members[:-1])])
    verdicts: list[bool] = np.logical_and.reduceat(fine, starts).tolist()
    return verdicts


def _member(told: PageMember) -> Member:
    if told.locks_malformed:
        log.warning("The locks in a person's metadata are no list of names: they may open none", member=told.key)
    return Member(told.key, told.name, told.valid_from, told.valid_until, frozenset(told.locks))
