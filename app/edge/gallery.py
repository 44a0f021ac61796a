"""The members who may be recognised, changed while others search: one writer at a time, and readers who never wait."""

import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from app.edge.errors import DuplicateMember, WrongContract, WrongDimension
from app.edge.members import Float32Array, GalleryDelta, MemberTemplates
from app.edge.rows import NEVER, Rows, Rows1D, Stored
from app.edge.snapshot import Entry, Snapshot, unit_rows

log = structlog.stdlib.get_logger("facedex.edge.gallery")

# Templates that are looked at together while a list is compared with what is there.
_BLOCK: Final = 4_096
# What vectors lose at most, relatively, on their way to unit length and to a file and back; and where float16 is subnormal.
_ROUNDING: Final[dict[Stored, float]] = {"float32": 5e-7, "float16": 2e-3}
_TINY: Final = 2e-7
# So many times more rows than are somebody's, and they are moved together.
_SPARSE: Final = 4

_NO_ROWS: Final[Rows1D] = np.empty(0, dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Changes:
    """How many members an update has added, removed and changed."""

    added: int = 0
    removed: int = 0
    updated: int = 0

    def __str__(self) -> str:
        return f"+{self.added} added, -{self.removed} removed, {self.updated} updated"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A change that has been checked. `blocks` are the new rows of `changed`, one member after the other, and their norms."""

    removed: tuple[str, ...]
    changed: tuple[MemberTemplates, ...]
    blocks: tuple[tuple[Float32Array, Float32Array], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all whom it is about."""
        return (*self.removed, *(given.member.key for given in self.changed))

    @property
    def row_count(self) -> int:
        """New rows."""
        return sum(len(norms) for _, norms in self.blocks)


class Gallery:
    """Members and their templates, of one embedding contract.

    An update costs what it changes, however many members there are: templates stay where they are (`Rows`), and each row says
    from which version to which it counts. `snapshot` is published by one assignment: a search that began before goes on with
    what it has, one that begins after sees all of it.

    Args:
        contract: `EmbeddingContract.id` of all templates.
        dimension: of the vectors.
        stored: float16 halves the memory, at the price of rounding similarities at the third digit.
        codes: search by 8-bit codes first; the first place is the same, in less time.
    """

    def __init__(self, contract: str, dimension: int, *, stored: Stored = "float32", codes: bool = True) -> None:
        self.contract = contract
        self.dimension = dimension
        self._write_lock = threading.Lock()
        self._rows = Rows(dimension, stored, codes=codes)
        self._left: list[Rows] = []
        self._index: dict[str, Entry] = {}
        self._outdated: deque[tuple[int, str]] = (
            deque()
        )  # keys with more than their newest entry, and since which version
        self._readers: weakref.WeakValueDictionary[int, Snapshot] = weakref.WeakValueDictionary()
        self._sizes: Counter[int] = Counter()  # members by how many templates they have
        self._built = False
        self._version = 0
        self._snapshot = self._readers[0] = self._seen(self._rows, self._sizes, 0)

    @property
    def snapshot(self) -> Snapshot:
        """What is published now."""
        return self._snapshot

    def update(self, members: Iterable[MemberTemplates]) -> Changes:
        """Become exactly these members.

        Raises:
            DuplicateMember, WrongDimension, NotFinite: nothing was changed.
        """
        wanted = tuple(members)
        with self._write_lock:  # writers queue; readers never wait
            keys = _distinct(wanted)
            gone = (key for key, entry in self._index.items() if entry.member is not None and key not in keys)
            return self._apply(wanted, tuple(gone))

    def apply(self, delta: GalleryDelta) -> Changes:
        """Take over what a source says has changed.

        Raises:
            WrongContract: it is of another model.
            DuplicateMember, WrongDimension, NotFinite: as `update`; nothing was changed.
        """
        if delta.contract != self.contract:
            raise WrongContract(f"The gallery's embeddings are {self.contract}; these are {delta.contract}.")
        if delta.full:
            return self.update(delta.upserts)
        with self._write_lock:
            keys = _distinct(delta.upserts)
            gone = dict.fromkeys(key for key in delta.removed if key not in keys and self._known(key) is not None)
            return self._apply(delta.upserts, tuple(gone))

    def _known(self, key: str) -> Entry | None:
        """What there is of a member; None where they are none."""
        entry = self._index.get(key)
        return entry if entry is not None and entry.member is not None else None

    def _apply(self, wanted: Sequence[MemberTemplates], gone: tuple[str, ...]) -> Changes:
        plan = self._plan(wanted, gone)
        updated = sum(self._known(given.member.key) is not None for given in plan.changed)
        changes = Changes(len(plan.changed) - updated, len(gone), updated)
        if plan.changed or plan.removed:
            self._carry_out(plan)
        self._reclaim()
        if not self._built:
            self._built = True
            log.info(f"Built embeddings matrix: {len(self._snapshot)} members")
        elif changes != Changes():
            log.info(str(changes))
        return changes

    def _plan(self, wanted: Sequence[MemberTemplates], gone: tuple[str, ...]) -> _Plan:
        """Look at everything before anything is changed."""
        suspects = [given for given in wanted if not self._is_same_object(given)]
        changed: list[MemberTemplates] = []
        blocks: list[tuple[Float32Array, Float32Array]] = []
        for block in _blocks(suspects):
            units, norms = unit_rows(_stacked(block, self.dimension), self.dimension)
            sizes = [len(given.embeddings) for given in block]
            same = self._are_same(block, units, norms, sizes)
            changed += [given for given, is_same in zip(block, same, strict=True) if not is_same]
            if not any(same):
                blocks.append((units, norms))
            elif not all(same):
                taken = ~np.repeat(same, sizes)
                blocks.append((units[taken], norms[taken]))
        return _Plan(gone, tuple(changed), tuple(blocks))

    def _is_same_object(self, given: MemberTemplates) -> bool:
        """Whether it is the very object that the member was made of, which then cannot have changed."""
        known = self._known(given.member.key)
        return (
            known is not None
            and known.given is not None
            and known.given() is given
            and not given.embeddings.flags.writeable
        )

    def _are_same(
        self, block: Sequence[MemberTemplates], units: Float32Array, norms: Float32Array, sizes: Sequence[int]
    ) -> list[bool]:
        """Which members of the block are just as they were, but for what is rounded off in their templates."""
        known = [self._known(given.member.key) for given in block]
        same = [
            entry is not None and entry.member == given.member and len(entry.rows) == size
            for entry, given, size in zip(known, block, sizes, strict=True)
        ]
        here = [entry.rows for entry, equal in zip(known, same, strict=True) if entry is not None and equal]
        if not here:
            return same
        asked = np.repeat(same, sizes)
        equal = self._equal_rows(np.concatenate(here), units[asked], norms[asked])
        verdicts = iter(np.logical_and.reduceat(equal, np.cumsum([0, *map(len, here)])[:-1]).tolist())
        same = [bool(next(verdicts)) if candidate else False for candidate in same]
        for entry, given, is_same in zip(known, block, same, strict=True):
            if entry is not None and is_same:
                entry.given = weakref.ref(given)
        return same

    def _equal_rows(self, rows: Rows1D, units: Float32Array, norms: Float32Array) -> NDArray[np.bool_]:
        """Which rows have just these vectors."""
        its, given = self._rows.columns, units.astype(self._rows.stored)
        equal: NDArray[np.bool_] = (given == its.matrix[rows]).all(axis=1) & (norms == its.norms[rows])
        other = np.flatnonzero(~equal)
        # As it is when they come from the source after they came from the file.
        rounding = np.float32(_ROUNDING[self._rows.stored])
        there, lengths = its.matrix[rows[other]], its.norms[rows[other]]
        equal[other] = np.abs(norms[other] - lengths) <= rounding * lengths
        equal[other] &= (np.abs(given[other] - there) <= rounding * np.abs(there) + np.float32(_TINY)).all(axis=1)
        return equal

    def _carry_out(self, plan: _Plan) -> None:
        """Write what is new where nobody reads, publish, and only then let go of what is old."""
        old = [known for key in plan.keys if (known := self._known(key)) is not None]
        dying = np.concatenate([_NO_ROWS, *(entry.rows for entry in old)])
        # A number is never used twice: what an update that failed may have left behind is of no version.
        self._version += 1
        version, rows = self._version, self._rows
        moving = not rows.room_for(plan.row_count) or self._is_sparse(plan.row_count - len(dying))
        if moving:
            keep = self._alive_but(dying)
            rows = rows.moved(keep, plan.row_count)  # to other memory; readers keep what they have
        where = rows.write_all(plan.blocks)
        entries: dict[str, Entry] = {}
        try:
            sizes = [len(given.embeddings) for given in plan.changed]
            rows.bear(where, [given.member for given in plan.changed], sizes, version)
            counts = self._sizes + Counter(sizes)
            counts.subtract(len(entry.rows) for entry in old)
            counts = +counts
            entries = self._entries(plan, _shares(where, sizes), version)
            elsewhere = self._elsewhere(keep, entries) if moving else []
            snapshot = self._seen(rows, counts, version)
            self._readers[version] = snapshot
            self._outdated.extend((version, key) for key, entry in entries.items() if entry.before is not None)
            self._index.update(entries)
        except BaseException:
            self._take_back(entries)
            rows.give_back(where)
            raise
        # All that may lack memory is done: so far nothing has changed that anybody sees, the writer's books neither.
        for entry, its in elsewhere:
            entry.rows = its
        if not moving:
            rows.let_die(dying, version)
        self._sizes = counts
        self._snapshot = snapshot
        self._rows.bury(dying, version)
        if moving:
            self._left.append(self._rows)
            self._rows = rows

    def _take_back(self, entries: dict[str, Entry]) -> None:
        """Put under the keys of a change what was there before."""
        for key, entry in entries.items():
            if entry.before is not None:
                self._index[key] = entry.before
            else:
                self._index.pop(key, None)

    def _elsewhere(self, keep: Rows1D, changing: Mapping[str, Entry]) -> list[tuple[Entry, Rows1D]]:
        """Where the rows of everybody else are, of whom these were moved."""
        moved_to = np.full(self._rows.used, -1, dtype=np.intp)
        moved_to[keep] = np.arange(len(keep))
        return [(entry, moved_to[entry.rows]) for key, entry in self._index.items() if key not in changing]

    def _entries(self, plan: _Plan, shares: Sequence[Rows1D], version: int) -> dict[str, Entry]:
        """What there will be under the keys of a change."""
        entries = {key: Entry(version, None, _NO_ROWS, None, self._index.get(key)) for key in plan.removed}
        for given, rows in zip(plan.changed, shares, strict=True):
            key = given.member.key
            entries[key] = Entry(version, given.member, rows, weakref.ref(given), self._index.get(key))
        return entries

    def _seen(self, rows: Rows, sizes: Counter[int], version: int) -> Snapshot:
        """What is to be published."""
        return Snapshot(
            contract=self.contract,
            dimension=self.dimension,
            version=version,
            index=self._index,
            columns=rows.columns.first(rows.used),
            owners=rows.owners,
            member_count=sizes.total(),
            most_templates=max(sizes, default=0),
        )

    def _reclaim(self) -> None:
        """Wipe what nobody reads any more, also where everything was moved away from, and forget what was before."""
        oldest = min(self._readers.keys())
        for rows in (self._rows, *self._left):
            rows.reclaim(oldest)
        self._left = [rows for rows in self._left if rows.has_unwiped]
        while self._outdated and self._outdated[0][0] <= oldest:
            since, key = self._outdated.popleft()
            entry = self._index.get(key)
            if entry is not None and entry.member is None and entry.since == since:
                del self._index[key]
            while entry is not None and entry.since > since:
                entry = entry.before
            if entry is not None:
                entry.before = None

    def _alive_but(self, dying: Rows1D) -> Rows1D:
        its = self._rows.columns.first(self._rows.used)
        alive = (its.born != NEVER) & (its.died == NEVER)
        alive[dying] = False
        return np.flatnonzero(alive)

    def _is_sparse(self, more: int) -> bool:
        """Whether with so many more most rows will be nobody's, which every search would go through."""
        alive = sum(size * count for size, count in self._sizes.items())
        return self._rows.used > _SPARSE * (alive + more + _BLOCK)


def _distinct(given: Sequence[MemberTemplates]) -> set[str]:
    keys: set[str] = set()
    for templates in given:
        if templates.member.key in keys:
            raise DuplicateMember(f"The member {templates.member.key!r} stands twice in one change.")
        keys.add(templates.member.key)
    return keys


def _blocks(given: Sequence[MemberTemplates]) -> Iterator[Sequence[MemberTemplates]]:
    return (given[start : start + _BLOCK] for start in range(0, len(given), _BLOCK))


def _stacked(block: Sequence[MemberTemplates], dimension: int) -> NDArray[Any]:
    """The templates of all, one below the other.

    Raises:
        WrongDimension: somebody has none, or of another length.
    """
    for given in block:
        shape = np.shape(given.embeddings)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != dimension:
            raise WrongDimension(
                f"The embeddings of {given.member.key!r} have the shape {shape}; (T, {dimension}) with at least one is needed."
            )
    return np.concatenate([given.embeddings for given in block])


def _shares(where: Rows1D, sizes: Sequence[int]) -> list[Rows1D]:
    """Which of the new rows are whose."""
    return [where[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
