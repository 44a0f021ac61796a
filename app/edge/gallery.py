"""The members who may be recognised, changed while others search: one writer at a time, and readers who never wait."""

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from app.edge.errors import DuplicateMember, WrongContract, WrongDimension
from app.edge.members import Float32Array, GalleryDelta, Member, MemberTemplates
from app.edge.rows import Rows, Stored
from app.edge.snapshot import NOBODY, RowTable, Snapshot, unit_rows

log = structlog.stdlib.get_logger("facedex.edge.gallery")

# Templates that are looked at together while a list is compared with what is there.
_BLOCK: Final = 4_096
# What vectors lose at most, relatively, on their way to unit length and to a file and back; and where float16 is subnormal.
_ROUNDING: Final[dict[Stored, float]] = {"float32": 5e-7, "float16": 2e-3}
_TINY: Final = 2e-7
# So many times more rows than are somebody's, and they are moved together.
_SPARSE: Final = 4

Rows1D = NDArray[np.intp]
_NO_ROWS: Final[Rows1D] = np.empty(0, dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Changes:
    """How many members an update has added, removed and changed."""

    added: int = 0
    removed: int = 0
    updated: int = 0

    def __str__(self) -> str:
        return f"+{self.added} added, -{self.removed} removed, {self.updated} updated"


@dataclass(slots=True)
class _Kept:
    """What the writer knows of a member.

    Attributes:
        number: of the member, which stays theirs.
        given: what they were made of, while somebody still has it: the very same object need not be compared.
    """

    number: int
    member: Member
    rows: Rows1D
    given: "weakref.ref[MemberTemplates] | None"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A change that has been checked. `blocks` are the new rows of `changed`, one member after the other, and their norms."""

    removed: tuple[str, ...]
    changed: tuple[MemberTemplates, ...]
    blocks: tuple[tuple[Float32Array, Float32Array], ...]
    relabelled: tuple[MemberTemplates, ...]

    @property
    def row_count(self) -> int:
        """New rows."""
        return sum(len(norms) for _, norms in self.blocks)


class Gallery:
    """Members and their templates, of one embedding contract.

    An update costs what it changes, plus a copy of a few small arrays; the templates stay where they are (`Rows`). `snapshot`
    is published by one assignment: a search that began before goes on with what it has, one that begins after sees all of it.

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
        self._kept: dict[str, _Kept] = {}
        self._numbers: dict[str, int] = {}
        self._free_numbers: list[int] = []
        self._members: list[Member | None] = []
        self._sizes: Counter[int] = Counter()  # members by how many templates they have
        self._built = False
        self._snapshot = self._publish(RowTable.empty())

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
            return self._apply(wanted, tuple(key for key in self._kept if key not in keys))

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
            gone = dict.fromkeys(key for key in delta.removed if key in self._kept and key not in keys)
            return self._apply(delta.upserts, tuple(gone))

    def _apply(self, wanted: Sequence[MemberTemplates], gone: tuple[str, ...]) -> Changes:
        plan = self._plan(wanted, gone)
        fresh = [given for given in plan.changed if given.member.key not in self._kept]
        changes = Changes(len(fresh), len(gone), len(plan.changed) - len(fresh) + len(plan.relabelled))
        if plan.changed or plan.removed or plan.relabelled:
            self._carry_out(plan)
        else:
            self._reclaim()
        if not self._built:
            self._built = True
            log.info(f"Built embeddings matrix: {len(self._kept)} members")
        else:
            log.info(str(changes))
        return changes

    def _plan(self, wanted: Sequence[MemberTemplates], gone: tuple[str, ...]) -> _Plan:
        """Look at everything before anything is changed."""
        suspects = [given for given in wanted if not self._is_same_object(given)]
        changed: list[MemberTemplates] = []
        relabelled: list[MemberTemplates] = []
        blocks: list[tuple[Float32Array, Float32Array]] = []
        for block in _blocks(suspects):
            these, lengths = unit_rows(_stacked(block, self.dimension), self.dimension)
            sizes = [len(given.embeddings) for given in block]
            same = self._equal_rows(block, these, lengths, sizes)
            for given, is_same in zip(block, same, strict=True):
                if not is_same:
                    changed.append(given)
                elif self._kept[given.member.key].member != given.member:
                    relabelled.append(given)
                else:
                    self._kept[given.member.key].given = weakref.ref(given)
            if not any(same):
                blocks.append((these, lengths))
            elif not all(same):
                taken = ~np.repeat(same, sizes)
                blocks.append((these[taken], lengths[taken]))
        return _Plan(gone, tuple(changed), tuple(blocks), tuple(relabelled))

    def _is_same_object(self, given: MemberTemplates) -> bool:
        """Whether it is the very object that the member was made of, which then cannot have changed."""
        kept = self._kept.get(given.member.key)
        return (
            kept is not None
            and kept.given is not None
            and kept.given() is given
            and not given.embeddings.flags.writeable
        )

    def _equal_rows(
        self, block: Sequence[MemberTemplates], units: Float32Array, norms: Float32Array, sizes: Sequence[int]
    ) -> list[bool]:
        """Which members of the block have just the templates that they had, but for what is rounded off."""
        kept = [self._kept.get(given.member.key) for given in block]
        same = [known is not None and len(known.rows) == size for known, size in zip(kept, sizes, strict=True)]
        here = [known.rows for known, equal in zip(kept, same, strict=True) if known is not None and equal]
        if not here:
            return same
        rows = np.concatenate(here)
        asked = np.repeat(same, sizes)
        given, lengths = units[asked].astype(self._rows.stored), norms[asked]
        equal = (given == self._rows.matrix[rows]).all(axis=1) & (lengths == self._rows.norms[rows])
        other = np.flatnonzero(~equal)
        # As it is when they come from the source after they came from the file.
        rounding = _ROUNDING[self._rows.stored]
        equal[other] = np.isclose(given[other], self._rows.matrix[rows[other]], rtol=rounding, atol=_TINY).all(axis=1)
        equal[other] &= np.isclose(lengths[other], self._rows.norms[rows[other]], rtol=rounding, atol=0)
        verdicts = iter(np.logical_and.reduceat(equal, np.cumsum([0, *map(len, here)])[:-1]).tolist())
        return [bool(next(verdicts)) if candidate else False for candidate in same]

    def _carry_out(self, plan: _Plan) -> None:
        """Write what is new where nobody reads, publish, and only then let go of what is old."""
        table, rows = self._snapshot.rows.copied(plan.row_count), self._rows
        old = (*plan.removed, *(given.member.key for given in plan.changed if given.member.key in self._kept))
        freed = np.concatenate([_NO_ROWS, *(self._kept[key].rows for key in old)])
        table.owners[freed] = NOBODY
        moved_to: Rows1D | None = None
        left: Rows | None = None
        if not rows.room_for(plan.row_count) or self._is_sparse(table, plan.row_count):
            # Copy what is somebody's to other memory; readers keep what they have.
            keep = np.flatnonzero(table.owners != NOBODY)
            moved_to = np.full(len(table.owners), -1, dtype=np.intp)
            moved_to[keep] = np.arange(len(keep))
            rows, table = rows.moved(keep, plan.row_count), table.taken(keep)
        where = rows.write_all(plan.blocks)
        table = table.resized(rows.used)
        # All that may lack memory is done: so far nothing has changed that anybody sees, the writer's books neither.
        if moved_to is not None:
            for kept in self._kept.values():
                kept.rows = moved_to[kept.rows]
            left, self._rows = self._rows, rows
        for key in plan.removed:
            self._remove(key)
        self._put(plan.changed, _shares(where, plan.changed), table)
        self._put(plan.relabelled, [self._kept[given.member.key].rows for given in plan.relabelled], table)
        self._snapshot = self._publish(table)
        if left is None:
            self._rows.free(freed)
        else:
            left.leave(freed)
            self._left.append(left)
        self._reclaim()

    def _reclaim(self) -> None:
        """Wipe what nobody reads any more, also where everything was moved away from."""
        for rows in (self._rows, *self._left):
            rows.reclaim()
        self._left = [rows for rows in self._left if rows.has_unwiped]

    def _is_sparse(self, table: RowTable, more: int) -> bool:
        """Whether most rows are nobody's, which every search would go through."""
        return self._rows.used > _SPARSE * (int(np.count_nonzero(table.owners != NOBODY)) + more + _BLOCK)

    def _remove(self, key: str) -> None:
        kept = self._kept.pop(key)
        del self._numbers[key]
        self._sizes[len(kept.rows)] -= 1
        self._members[kept.number] = None
        self._free_numbers.append(kept.number)

    def _put(self, given: Sequence[MemberTemplates], rows: Sequence[Rows1D], table: RowTable) -> None:
        """Make these rows the members'."""
        if not given:
            return
        numbers = []
        for one, its in zip(given, rows, strict=True):
            member, kept = one.member, self._kept.get(one.member.key)
            number = kept.number if kept is not None else self._free_number()
            if kept is not None:
                self._sizes[len(kept.rows)] -= 1
            self._sizes[len(its)] += 1
            numbers.append(number)
            self._members[number] = member
            self._numbers[member.key] = number
            self._kept[member.key] = _Kept(number, member, its, weakref.ref(one))
        sizes, where = [len(its) for its in rows], np.concatenate(rows)
        table.owners[where] = np.repeat(numbers, sizes)
        begins = [-np.inf if one.member.valid_from is None else one.member.valid_from for one in given]
        ends = [np.inf if one.member.valid_until is None else one.member.valid_until for one in given]
        table.valid_from[where] = np.repeat(begins, sizes)
        table.valid_until[where] = np.repeat(ends, sizes)

    def _free_number(self) -> int:
        if self._free_numbers:
            return self._free_numbers.pop()
        self._members.append(None)
        return len(self._members) - 1

    def _publish(self, table: RowTable) -> Snapshot:
        count, rows = self._rows.used, self._rows
        coded = count if rows.has_codes else 0
        snapshot = Snapshot(
            contract=self.contract,
            dimension=self.dimension,
            members=tuple(self._members),
            numbers=self._numbers,
            rows=table,
            matrix=rows.matrix[:count],
            norms=rows.norms[:count],
            codes=rows.codes[:coded],
            scales=rows.scales[:coded],
            errors=rows.errors[:coded],
            member_count=len(self._kept),
            most_templates=max((size for size, count in self._sizes.items() if count), default=0),
        )
        rows.mark(snapshot)
        return snapshot


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


def _shares(where: Rows1D, changed: Sequence[MemberTemplates]) -> list[Rows1D]:
    """Which of the new rows are whose."""
    ends = accumulate(len(given.embeddings) for given in changed)
    return [where[end - len(given.embeddings) : end] for given, end in zip(changed, ends, strict=True)]
