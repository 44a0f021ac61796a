"""One state of a gallery, which never changes, and the search in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numkong
import numpy as np
from numpy.typing import NDArray

from app.edge.errors import NotFinite, WrongDimension
from app.edge.members import Float32Array, Member
from app.edge.rows import encode

NOBODY: Final = -1
"""The owner of a row that is nobody's."""

# More rows than this within the 8-bit codes' error, and the exact product over all of them is quicker.
_RESCORE_MAX: Final = 2_048
# Probes of a batch that are compared at once: what they need of memory is bounded.
_BATCH: Final = 32
# Rows that are converted at once where they are stored in half precision.
_BLOCK: Final = 4_096


@dataclass(frozen=True, slots=True)
class Match:
    """A member who may be the one: `similarity` is the cosine with their best template, -1 to 1; `distance` 1 minus it."""

    member: Member
    similarity: float

    @property
    def distance(self) -> float:
        """Cosine distance, 0 to 2."""
        return 1.0 - self.similarity


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """Whose template each row is, and when it counts.

    Attributes:
        owners: int32, (N,): the member's number, or `NOBODY`.
        valid_from, valid_until: float64, (N,): Unix seconds, infinite where unbounded.
    """

    owners: NDArray[np.int32]
    valid_from: NDArray[np.float64]
    valid_until: NDArray[np.float64]

    @classmethod
    def empty(cls) -> "RowTable":
        """Of no rows."""
        return cls(np.empty(0, np.int32), np.empty(0), np.empty(0))

    def copied(self, more: int) -> "RowTable":
        """One that may be changed, with so many rows of nobody at the end."""
        size = len(self.owners)
        copy = RowTable(np.empty(size + more, np.int32), np.empty(size + more), np.empty(size + more))
        for its, mine, nobody in (
            (copy.owners, self.owners, NOBODY),
            (copy.valid_from, self.valid_from, 0),
            (copy.valid_until, self.valid_until, 0),
        ):
            its[:size], its[size:] = mine, nobody
        return copy

    def taken(self, keep: NDArray[np.intp]) -> "RowTable":
        """These rows of it, in this order."""
        return RowTable(self.owners[keep], self.valid_from[keep], self.valid_until[keep])

    def resized(self, size: int) -> "RowTable":
        """Without some rows at the end, or with rows of nobody there."""
        if size > len(self.owners):
            return self.copied(size - len(self.owners))
        return RowTable(self.owners[:size], self.valid_from[:size], self.valid_until[:size])

    def shown(self, now: float) -> NDArray[np.bool_]:
        """Which rows count at that time: bool, (N,)."""
        shown: NDArray[np.bool_] = (self.owners != NOBODY) & (self.valid_from <= now) & (now < self.valid_until)
        return shown


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """Members and templates as they were when it was published. Whoever has one can search it, undisturbed by any update.

    Attributes:
        members: by number; None where there is nobody.
        numbers: of the keys, as of now: it is the gallery's own, and only ever asked for a key.
        rows: whose each row is.
        matrix, norms, codes, scales, errors: (N, …): as of `Rows`.
        most_templates: the most that one member has.
    """

    contract: str
    dimension: int
    members: tuple[Member | None, ...]
    numbers: Mapping[str, int]
    rows: RowTable
    matrix: NDArray[Any]
    norms: Float32Array
    codes: NDArray[np.int8]
    scales: Float32Array
    errors: Float32Array
    member_count: int
    most_templates: int

    def __len__(self) -> int:
        return self.member_count

    def member(self, key: str) -> Member | None:
        """The member of that key; None where there is none, in this state or by now."""
        number = self.numbers.get(key, -1)
        found = self.members[number] if 0 <= number < len(self.members) else None
        return found if found is not None and found.key == key else None

    def match(self, probe: NDArray[Any], *, now: float, top_k: int = 5) -> list[Match]:
        """The members who are most like the probe, the most alike first, each once, and only who is valid now.

        Args:
            probe: (D,), of any length.
            now: Unix seconds.

        Raises:
            WrongDimension, NotFinite: it is no probe for this gallery.
        """
        return self.match_batch(np.asarray(probe)[None], now=now, top_k=top_k)[0]

    def match_batch(self, probes: NDArray[Any], *, now: float, top_k: int = 5) -> list[list[Match]]:
        """As `match`, for each of several probes: (B, D)."""
        units = unit_rows(probes, self.dimension)[0]
        if not self.member_count or top_k < 1:
            return [[] for _ in units]
        shown = self.rows.shown(now)
        found: list[list[Match]] = []
        for start in range(0, len(units), _BATCH):
            block = units[start : start + _BATCH]
            found += self._by_codes(block, shown, top_k) if len(self.codes) else self._exactly(block, shown, top_k)
        return found

    def _exactly(self, units: Float32Array, shown: NDArray[np.bool_], top_k: int) -> list[list[Match]]:
        """All rows, by one product."""
        similarities = self._product(units)
        similarities[:, ~shown] = -np.inf
        most = min(top_k * self.most_templates, len(shown))
        return [self._best(_largest(row, most), row, top_k) for row in similarities]

    def _product(self, units: Float32Array) -> Float32Array:
        if self.matrix.dtype == np.float32:
            if len(units) == 1:
                return np.asarray(self.matrix @ units[0])[None]  # the matrix-vector product is the quicker one for one
            return np.asarray(units @ self.matrix.T)
        product = np.empty((len(units), len(self.matrix)), dtype=np.float32)
        for start in range(0, len(self.matrix), _BLOCK):
            block = self.matrix[start : start + _BLOCK].astype(np.float32)
            np.matmul(units, block.T, out=product[:, start : start + _BLOCK])
        return product

    def _by_codes(self, units: Float32Array, shown: NDArray[np.bool_], top_k: int) -> list[list[Match]]:
        """All rows by their 8-bit codes, and exactly those that may be among the best by what was rounded off.

        With v = v̂ + e, q = q̂ + d, where v̂ and q̂ are what the codes stand for: q·v = q̂·v̂ + q̂·e + d·v, and by Cauchy and Schwarz
        the two last terms are at most |q̂||e| + |d||v|, where |v| is 1 and |q̂| at most 1 + |d|.
        """
        codes, scales, errors = encode(units)
        products = np.asarray(numkong.cdist(codes, self.codes, "dot"), dtype=np.float32)
        most = min(top_k * self.most_templates, len(shown))
        found = []
        for unit, product, scale, error in zip(units, products, scales, errors, strict=True):
            row = product / (self.scales * scale)
            slack = self.errors * (1 + error) + error
            row[~shown] = -np.inf
            # The top `most` rows are at least this good; what cannot be as good even with all its slack is out.
            floor = _kth_largest(row - slack, most)
            rows = np.flatnonzero(row + slack >= floor) if floor > -np.inf else np.flatnonzero(shown)
            if len(rows) > _RESCORE_MAX:
                found += self._exactly(unit[None], shown, top_k)
            else:
                row[rows] = self.matrix[rows].astype(np.float32, copy=False) @ unit
                found.append(self._best(rows, row, top_k))
        return found

    def _best(self, rows: NDArray[np.intp], similarities: Float32Array, top_k: int) -> list[Match]:
        """The best members among some rows."""
        best: dict[int, float] = {}
        for row in rows[np.argsort(-similarities[rows], kind="stable")]:
            similarity, number = float(similarities[row]), int(self.rows.owners[row])
            if similarity == -np.inf or len(best) == top_k:
                break
            best.setdefault(number, similarity)
        named = ((self.members[number], similarity) for number, similarity in best.items())
        return [Match(member, min(1.0, max(-1.0, similarity))) for member, similarity in named if member is not None]


def unit_rows(vectors: NDArray[Any] | Sequence[Any], dimension: int) -> tuple[Float32Array, Float32Array]:
    """Vectors of length 1, and their lengths before.

    Args:
        vectors: (N, D), any real dtype.

    Returns:
        float32, (N, D), C-contiguous; float32, (N,).

    Raises:
        WrongDimension: they are not (N, `dimension`).
        NotFinite: one of them has no direction.
    """
    try:
        given = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError):
        raise NotFinite("An embedding is not made of numbers.") from None
    if given.ndim != 2 or given.shape[1] != dimension:
        raise WrongDimension(f"Embeddings of {dimension} numbers are needed; their shape is {given.shape}.")
    norms = np.linalg.norm(given, axis=1)
    if not np.all(np.isfinite(norms)) or not np.all(norms > 0):
        raise NotFinite("An embedding holds NaN or infinity, or is all zero.")
    return np.ascontiguousarray(given / norms[:, None], dtype=np.float32), norms.astype(np.float32)


def _largest(values: Float32Array, count: int) -> NDArray[np.intp]:
    """Where the largest `count` values are, in no order."""
    if count >= values.size:
        return np.arange(values.size)
    return np.argpartition(values, values.size - count)[values.size - count :]


def _kth_largest(values: Float32Array, k: int) -> float:
    return float(np.partition(values, values.size - k)[values.size - k])
