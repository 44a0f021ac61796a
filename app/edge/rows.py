"""The memory in which templates lie: one row each, which is never moved or overwritten while somebody may be reading it."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.edge.codes import encode
from app.edge.members import Float32Array, Member

Stored = Literal["float32", "float16"]
Rows1D = NDArray[np.intp]

NEVER: Final = np.iinfo(np.int32).max
"""The version that no snapshot reaches."""

# Room for the rows to come, so that hardly any update has to copy everything; memory that nobody has written to costs nothing.
_SPARE: Final = 1 / 8
_SPARE_MIN: Final = 256
_SLICED_MIN: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What there is of each row. N is the capacity, or the rows that a snapshot knows of.

    Versions are 32 bits wide: such a number is written at once on every machine, also where somebody is reading it.

    Attributes:
        matrix: float32 or float16, (N, D), unit length, C-contiguous.
        norms: float32, (N,): the vectors' lengths before.
        codes: int8, (N, D); a vector is about `codes * steps`. No rows where codes are off, as `steps` and `errors`.
        steps: float32, (N,).
        errors: float32, (N,): an upper bound of the length of vector minus `codes * steps`.
        born: int32, (N,): the version from which on the row counts, `NEVER` where it is nobody's.
        died: int32, (N,): the version from which on it counts no more.
        leads: int32, (N,): the member's first row, which tells whose it is.
        valid_from, valid_until: float64, (N,): when the member may be recognised: Unix seconds, infinite where unbounded.
    """

    matrix: NDArray[Any]
    norms: Float32Array
    codes: NDArray[np.int8]
    steps: Float32Array
    errors: Float32Array
    born: NDArray[np.int32]
    died: NDArray[np.int32]
    leads: NDArray[np.int32]
    valid_from: NDArray[np.float64]
    valid_until: NDArray[np.float64]

    @classmethod
    def empty(cls, capacity: int, dimension: int, stored: Stored, *, codes: bool) -> "Columns":
        """Rows of nobody."""
        coded = capacity if codes else 0
        return cls(
            matrix=np.zeros((capacity, dimension), dtype=stored),
            norms=np.zeros(capacity, dtype=np.float32),
            codes=np.zeros((coded, dimension), dtype=np.int8),
            steps=np.zeros(coded, dtype=np.float32),
            errors=np.zeros(coded, dtype=np.float32),
            born=np.full(capacity, NEVER, dtype=np.int32),
            died=np.full(capacity, NEVER, dtype=np.int32),
            leads=np.zeros(capacity, dtype=np.int32),
            valid_from=np.zeros(capacity),
            valid_until=np.zeros(capacity),
        )

    def first(self, count: int) -> "Columns":
        """The first rows, of the same memory."""
        return Columns(*(column[:count] for column in self.all))

    @property
    def all(self) -> tuple[NDArray[Any], ...]:
        """In the order in which they are named."""
        return tuple(getattr(self, name) for name in _NAMES)

    def shown(self, rows: "Rows1D | slice", version: int, now: float) -> NDArray[np.bool_]:
        """Which of these rows count at that time for a snapshot of that version: bool.

        `died` has to be read before `born`, for the writer lets a row be born again, after the snapshot's time, in the other
        order: whoever sees that it has not died sees too that it is not born yet.
        """
        shown: NDArray[np.bool_] = version < self.died[rows]
        shown &= self.born[rows] <= version
        shown &= self.valid_from[rows] <= now
        shown &= now < self.valid_until[rows]
        return shown


_NAMES: Final = tuple(field.name for field in fields(Columns))


class Rows:
    """Templates in contiguous memory; for one writer, and readers of older versions.

    A row is written while it is not born, and so read by nobody; published with a version; and once it has died it stays as it
    is until nobody has a snapshot of a version in which it lived. Then it is wiped, and used again.

    Attributes:
        columns: of all rows that there is room for.
        owners: whose a row is, at the member's first one; may hold who has left elsewhere.
        used: rows from 0 on that may hold something.
    """

    def __init__(self, dimension: int, stored: Stored, *, codes: bool, capacity: int = 0) -> None:
        self.dimension = dimension
        self.stored: Stored = stored
        self.has_codes = codes
        self.used = 0
        self.columns = Columns.empty(max(capacity, _SPARE_MIN), dimension, stored, codes=codes)
        self.owners: list[Member | None] = [None] * self.capacity
        self._free: list[int] = []
        self._dead: deque[tuple[int, Rows1D]] = deque()

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return len(self.columns.norms)

    def room_for(self, count: int) -> bool:
        """Whether so many rows fit without moving anything."""
        return count <= len(self._free) + self.capacity - self.used

    def moved(self, keep: Rows1D, count: int) -> "Rows":
        """Rows of their own with room for `count` more: a copy of those to keep, in this order from 0 on."""
        size, wanted = len(keep), len(keep) + count
        capacity = wanted + max(_SPARE_MIN, int(wanted * _SPARE))
        other = Rows(self.dimension, self.stored, codes=self.has_codes, capacity=capacity)
        for mine, its in zip(self.columns.all, other.columns.all, strict=True):
            if len(mine):
                # Not "raise", which would make a copy of the copy.
                np.take(mine, keep, axis=0, out=its[:size], mode="clip")
        moved_to = np.zeros(self.used, dtype=np.int32)
        moved_to[keep] = np.arange(size, dtype=np.int32)
        other.columns.leads[:size] = moved_to[other.columns.leads[:size]]
        other.owners[:size] = [self.owners[row] for row in keep.tolist()]
        other.used = size
        return other

    def write_all(self, blocks: Iterable[tuple[Float32Array, Float32Array]]) -> Rows1D:
        """Write new rows where nobody reads; there has to be room. Returns where they are.

        What was written is given back where one block cannot be written.

        Args:
            blocks: of unit vectors, float32, (N, D), and their lengths before, float32, (N,).
        """
        where = [np.empty(0, dtype=np.intp)]
        try:
            for units, norms in blocks:
                where.append(self._reserve(len(units)))
                self._write(where[-1], units, norms)
        except BaseException:
            self.give_back(np.concatenate(where))
            raise
        return np.concatenate(where)

    def _reserve(self, count: int) -> Rows1D:
        """Rows to write to: those to be used again, then those at the end."""
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = range(self.used, self.used + count - len(reused))
        self.used = fresh.stop
        return np.array([*reused, *fresh], dtype=np.intp)

    def _write(self, where: Rows1D, units: Float32Array, norms: Float32Array) -> None:
        # What goes to the end is one slice, quicker than one row after the other.
        target, to = _slice_of(where), self.columns
        to.matrix[target] = units
        if self.has_codes:
            # Of what is stored: with float16 that is not quite what was given.
            stored = units if self.stored == "float32" else units.astype(self.stored)
            to.codes[target], to.steps[target], to.errors[target] = encode(stored)
        to.norms[target] = norms

    def bear(self, rows: Rows1D, members: Sequence[Member], sizes: Sequence[int], version: int) -> None:
        """Make rows that were written the members', for snapshots of this version on.

        Args:
            sizes: how many of the rows are whose, one member after the other.
        """
        if not len(rows):
            return
        target, to = _slice_of(rows), self.columns
        firsts = rows[np.cumsum([0, *sizes[:-1]])]
        for row, member in zip(firsts.tolist(), members, strict=True):
            self.owners[row] = member
        to.leads[target] = np.repeat(firsts, sizes)
        begins = [-np.inf if member.valid_from is None else member.valid_from for member in members]
        ends = [np.inf if member.valid_until is None else member.valid_until for member in members]
        to.valid_from[target] = np.repeat(begins, sizes)
        to.valid_until[target] = np.repeat(ends, sizes)
        to.died[target] = NEVER  # before `born`: see `Columns.shown`
        to.born[target] = version

    def let_die(self, rows: Rows1D, version: int) -> None:
        """Rows that count no more from this version on. Whoever has an older snapshot still has them."""
        self.columns.died[rows] = version

    def bury(self, rows: Rows1D, version: int) -> None:
        """Wipe rows, and use them again, as soon as nobody has a snapshot from before this version; see `reclaim`."""
        if len(rows):
            self._dead.append((version, rows))

    @property
    def has_unwiped(self) -> bool:
        """Whether rows have died that are not wiped yet."""
        return bool(self._dead)

    def reclaim(self, oldest: int) -> None:
        """Wipe the dead rows that nobody reads any more.

        Args:
            oldest: the oldest version that somebody has a snapshot of.
        """
        while self._dead and self._dead[0][0] <= oldest:
            self.give_back(self._dead.popleft()[1])

    def give_back(self, rows: Rows1D) -> None:
        """Wipe rows that nobody reads."""
        its = self.columns
        its.born[rows] = NEVER
        its.matrix[rows], its.norms[rows] = 0, 0
        if self.has_codes:
            its.codes[rows], its.steps[rows], its.errors[rows] = 0, 0, 0
        numbers = rows.tolist()
        for row in numbers:
            self.owners[row] = None
        self._free.extend(numbers)


def _slice_of(rows: Rows1D) -> Rows1D | slice:
    """As a slice where they are many, one after the other: it is quicker."""
    if len(rows) >= _SLICED_MIN and bool(np.all(np.diff(rows) == 1)):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
