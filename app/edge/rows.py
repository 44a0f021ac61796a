"""The memory in which templates lie: one row each, which is never moved or overwritten while somebody may be reading it."""

import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.edge.members import Float32Array

Stored = Literal["float32", "float16"]

# Room for the rows to come, so that hardly any update has to copy everything; memory that nobody has written to costs nothing.
_SPARE: Final = 1 / 8
_SPARE_MIN: Final = 256
_LEVELS: Final = 127
# Vectors that are encoded at once, so that all of it stays in the processor's cache.
_ENCODED: Final = 256


class Rows:
    """Unit vectors, their norms before, and their 8-bit codes, in contiguous memory; for one writer, and readers with marks.

    A row that is freed stays as it is until every mark that was given out before is gone: then it is wiped, and used again.

    Attributes:
        matrix: float32 or float16, (capacity, D), unit length, C-contiguous.
        norms: float32, (capacity,): the vectors' lengths before.
        codes: int8, (capacity, D); a vector is about `codes / scales`. Empty where codes are off.
        scales: float32, (capacity,), never 0.
        errors: float32, (capacity,): an upper bound of the length of vector minus `codes / scales`.
        used: rows from 0 on that may hold something.
    """

    def __init__(self, dimension: int, stored: Stored, *, codes: bool, capacity: int = 0) -> None:
        self.dimension = dimension
        self.stored: Stored = stored
        self.has_codes = codes
        self.used = 0
        self._allocate(max(capacity, _SPARE_MIN))
        self._free: list[int] = []
        self._freed: deque[tuple[int, NDArray[np.intp]]] = deque()
        self._marks: dict[int, weakref.ref[Any]] = {}
        self._next_mark = 0

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return len(self.norms)

    def mark(self, reader: object) -> None:
        """Rows that are freed from now on stay as they are for as long as this object lives."""
        self._marks[self._next_mark] = weakref.ref(reader)
        self._next_mark += 1

    def room_for(self, count: int) -> bool:
        """Whether so many rows fit without moving anything."""
        return count <= len(self._free) + self.capacity - self.used

    def moved(self, keep: NDArray[np.intp], count: int) -> "Rows":
        """Rows of their own with room for `count` more: a copy of those to keep, in this order from 0 on."""
        wanted = len(keep) + count
        other = Rows(
            self.dimension,
            self.stored,
            codes=self.has_codes,
            capacity=wanted + max(_SPARE_MIN, int(wanted * _SPARE)),
        )
        size = len(keep)
        for mine, its in zip(self._arrays(), other._arrays(), strict=True):
            # Not "raise", which would make a copy of the copy.
            np.take(mine, keep, axis=0, out=its[:size], mode="clip")
        other.used = size
        return other

    def write_all(self, blocks: Iterable[tuple[Float32Array, Float32Array]]) -> NDArray[np.intp]:
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
            self.free(np.concatenate(where))
            raise
        return np.concatenate(where)

    def _reserve(self, count: int) -> NDArray[np.intp]:
        """Rows to write to: those to be used again, then those at the end."""
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = range(self.used, self.used + count - len(reused))
        self.used = fresh.stop
        return np.array([*reused, *fresh], dtype=np.intp)

    def _write(self, where: NDArray[np.intp], units: Float32Array, norms: Float32Array) -> None:
        # What goes to the end is one slice, quicker than one row after the other.
        target = slice(where[0], where[-1] + 1) if _is_range(where) else where
        self.matrix[target] = units
        if self.has_codes:
            # Of what is stored: with float16 that is not quite what was given.
            stored = units if self.stored == "float32" else units.astype(self.stored)
            self.codes[target], self.scales[target], self.errors[target] = encode(stored)
        self.norms[target] = norms

    def free(self, rows: NDArray[np.intp]) -> None:
        """Give rows back, after a snapshot without them has been published."""
        if len(rows):
            self._freed.append((self._next_mark, rows))
        self.reclaim()

    def leave(self, rows: NDArray[np.intp]) -> None:
        """Give rows back that every snapshot with a mark has; after what else there is has been moved to other memory."""
        if len(rows):
            self._freed.append((self._next_mark + 1, rows))
        self.reclaim()

    @property
    def has_unwiped(self) -> bool:
        """Whether rows were given back that are not wiped yet."""
        return bool(self._freed)

    def reclaim(self) -> None:
        """Wipe the freed rows that nobody reads any more."""
        for number in [number for number, mark in self._marks.items() if mark() is None]:
            del self._marks[number]
        oldest = next(iter(self._marks), self._next_mark)
        # The newest mark is that of the snapshot without the rows.
        while self._freed and self._freed[0][0] - 1 <= oldest:
            _, rows = self._freed.popleft()
            self.matrix[rows], self.norms[rows] = 0, 0
            if self.has_codes:
                self.codes[rows], self.scales[rows], self.errors[rows] = 0, 1, 0
            self._free.extend(rows.tolist())

    def _allocate(self, capacity: int) -> None:
        coded = capacity if self.has_codes else 0
        self.matrix = np.zeros((capacity, self.dimension), dtype=self.stored)
        self.norms = np.zeros(capacity, dtype=np.float32)
        self.codes = np.zeros((coded, self.dimension), dtype=np.int8)
        self.scales = np.ones(coded, dtype=np.float32)
        self.errors = np.zeros(coded, dtype=np.float32)

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        kept: tuple[NDArray[Any], ...] = (self.matrix, self.norms)
        return (*kept, self.codes, self.scales, self.errors) if self.has_codes else kept


def encode(vectors: NDArray[Any]) -> tuple[NDArray[np.int8], Float32Array, Float32Array]:
    """Round vectors to 8 bits.

    Args:
        vectors: float32 or float16, (N, D).

    Returns:
        codes, int8, (N, D), -127 to 127; scales, float32, (N,): a vector is about `codes / scale`; and an upper bound of the
        length of what was rounded off, float32, (N,).
    """
    codes = np.empty(vectors.shape, dtype=np.int8)
    scales, errors = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _ENCODED):
        some = slice(start, start + _ENCODED)
        exact = vectors[some].astype(np.float32, copy=False)
        largest = np.maximum(exact.max(axis=1, initial=0.0), -exact.min(axis=1, initial=0.0))
        scales[some] = _LEVELS / np.maximum(largest, np.finfo(np.float32).tiny)
        rounded = exact * scales[some, None]
        np.rint(rounded, out=rounded)
        codes[some] = rounded
        rounded /= scales[some, None]
        np.subtract(exact, rounded, out=rounded)
        # A little more, for what float32 rounds off here and in the products.
        errors[some] = np.sqrt(np.einsum("nd,nd->n", rounded, rounded)) * np.float32(1.001) + np.float32(1e-6)
    return codes, scales, errors


def _is_range(rows: NDArray[np.intp]) -> bool:
    """Whether they are one after the other."""
    return len(rows) > 0 and bool(np.all(np.diff(rows) == 1))
