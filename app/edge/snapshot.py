"""One state of a gallery, which never changes, and the search in it."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.edge.codes import encode, products
from app.edge.errors import NotFinite, WrongDimension
from app.edge.members import Float32Array, Member, MemberTemplates
from app.edge.rows import Columns, Rows1D

# More rows than this within the 8-bit codes' error, and the exact product over all of them is quicker.
_RESCORE_MAX: Final = 2_048
# Fewer than this are compared exactly at once, without a look at the best of them first.
_RESCORE_MIN: Final = 32
# Probes of a batch that are compared at once: what they need of memory is bounded.
_BATCH: Final = 32
# Rows that are converted at once where they are stored in half precision.
_BLOCK: Final = 4_096
# Groups of rows of which only the largest is looked at, at least, and for each row that is asked for.
_GROUPS: Final = 1_024
_GROUPS_EACH: Final = 32
# What the sum of a product may differ by when it is added up in another order.
_ROUNDED: Final = np.float32(1e-6)


@dataclass(frozen=True, slots=True)
class Match:
    """A member who may be the one: `similarity` is the cosine with their best template, -1 to 1; `distance` 1 minus it."""

    member: Member
    similarity: float

    @property
    def distance(self) -> float:
        """Cosine distance, 0 to 2."""
        return 1.0 - self.similarity


@dataclass(slots=True)
class Entry:
    """What there is under a key since some version.

    Attributes:
        since: the version.
        member: None: nobody, any more.
        rows: the member's templates; for the writer alone.
        given: what they were made of, while somebody still has it: the very same object need not be compared.
        before: what there was before, for as long as somebody has a snapshot from then.
    """

    since: int
    member: Member | None
    rows: Rows1D
    given: "weakref.ref[MemberTemplates] | None"
    before: "Entry | None"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """Members and templates as they were when it was published. Whoever has one can search it, undisturbed by any update.

    It is a version's number and the memory that the gallery itself writes to: what is newer is passed over, and what the
    snapshot needs stays as it is.

    Attributes:
        version: of the gallery.
        index: by key; the gallery's own, with what is newer and what is older.
        columns: of N rows.
        owners: whose a row is, by the member's first one.
        most_templates: the most that one member has.
    """

    contract: str
    dimension: int
    version: int
    index: Mapping[str, Entry]
    columns: Columns
    owners: Sequence[Member | None]
    member_count: int
    most_templates: int

    def __len__(self) -> int:
        return self.member_count

    def member(self, key: str) -> Member | None:
        """The member of that key; None where there is none."""
        entry = self.index.get(key)
        while entry is not None and entry.since > self.version:
            entry = entry.before
        return None if entry is None else entry.member

    def members(self) -> Iterator[tuple[Member, Rows1D]]:
        """Everybody, and the rows of their templates in `columns`."""
        its = self.columns
        alive = np.flatnonzero((self.version < its.died) & (its.born <= self.version))  # in this order: `Columns.shown`
        leads = its.leads[alive]
        order = np.argsort(leads, kind="stable")
        ends = np.flatnonzero(np.diff(leads[order], append=-1)) + 1
        start = 0
        for end in ends.tolist():
            rows = alive[order[start:end]]
            start = end
            owner = self.owners[its.leads[rows[0]]]
            assert owner is not None
            yield owner, rows

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
        most = min(top_k * self.most_templates, len(self.columns.norms))
        found: list[list[Match]] = []
        for start in range(0, len(units), _BATCH):
            block = units[start : start + _BATCH]
            by = self._by_codes if len(self.columns.codes) else self._exactly
            found += [self._best(rows, similarities, top_k) for rows, similarities in by(block, now, most)]
        return found

    def _exactly(self, units: Float32Array, now: float, most: int) -> Iterator[tuple[Rows1D, Float32Array]]:
        """For each probe, rows with the `most` best among them, and their similarities: by the product with all rows."""
        for row in self._product(units):
            rows = self._candidates(row, row, now, most)
            yield rows, row[rows]

    def _product(self, units: Float32Array) -> Float32Array:
        matrix = self.columns.matrix
        if matrix.dtype == np.float32:
            if len(units) == 1:
                return np.asarray(matrix @ units[0])[None]  # the matrix-vector product is the quicker one for one
            return np.asarray(units @ matrix.T)
        product = np.empty((len(units), len(matrix)), dtype=np.float32)
        for start in range(0, len(matrix), _BLOCK):
            block = matrix[start : start + _BLOCK].astype(np.float32)
            np.matmul(units, block.T, out=product[:, start : start + _BLOCK])
        return product

    def _by_codes(self, units: Float32Array, now: float, most: int) -> Iterator[tuple[Rows1D, Float32Array]]:
        """As `_exactly`, by the 8-bit codes, and exactly only those that may be among the best by what was rounded off.

        With v = v̂ + e, q = q̂ + d, where v̂ and q̂ are what the codes stand for: q·v = q̂·v̂ + q̂·e + d·v, and by Cauchy and Schwarz
        the two last terms are at most |q̂||e| + |d||v|, where |v| is 1 and |q̂| at most 1 + |d|.
        """
        codes, steps, errors = encode(units)
        its = self.columns
        for unit, about, error in zip(units, products(codes, steps, its.codes, its.steps), errors, strict=True):
            slack = its.errors * (1 + error)
            slack += error
            at_most = about + slack
            at_least = np.subtract(about, slack, out=slack)
            rows = self._candidates(at_least, at_most, now, most)
            if len(rows) > _RESCORE_MAX:
                yield from self._exactly(unit[None], now, most)
            else:
                yield self._rescored(unit, rows, at_most[rows], most)

    def _candidates(self, at_least: Float32Array, at_most: Float32Array, now: float, most: int) -> Rows1D:
        """Rows that count now, those that may be among the `most` best of them included.

        Args:
            at_least, at_most: float32, (N,): bounds of the rows' similarities. `at_least` may be changed.
        """
        floor = _floor(at_least, most)
        rows = np.flatnonzero(at_most >= floor)
        rows = rows[self.columns.shown(rows, self.version, now)]
        if np.count_nonzero(at_least[rows] >= floor) >= most:
            return rows
        # Who is much like the probe does not count: only those who do may say how good one has to be.
        shown = self.columns.shown(slice(None), self.version, now)
        at_least[~shown] = -np.inf
        floor = _floor(at_least, most)
        return np.flatnonzero(shown & (at_most >= floor))

    def _rescored(
        self, unit: Float32Array, rows: Rows1D, at_most: Float32Array, most: int
    ) -> tuple[Rows1D, Float32Array]:
        """The rows that may be among the `most` best, and their exact similarities."""
        matrix = self.columns.matrix
        if len(rows) > max(_RESCORE_MIN, 2 * most):
            # What the best few really are excludes most of the others.
            likely = rows[np.argpartition(at_most, -most)[-most:]]
            floor = (matrix[likely].astype(np.float32, copy=False) @ unit).min() - _ROUNDED
            rows = rows[at_most >= floor]
        return rows, matrix[rows].astype(np.float32, copy=False) @ unit

    def _best(self, rows: Rows1D, similarities: Float32Array, top_k: int) -> list[Match]:
        """The best members among some rows."""
        best: dict[int, float] = {}
        order = np.argsort(-similarities, kind="stable")
        for lead, similarity in zip(
            self.columns.leads[rows[order]].tolist(), similarities[order].tolist(), strict=True
        ):
            if len(best) == top_k:
                break
            best.setdefault(lead, similarity)
        named = ((self.owners[lead], similarity) for lead, similarity in best.items())
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


def _floor(values: Float32Array, count: int) -> float:
    """A value that `count` of these reach at least: the largest one that is quickly found."""
    groups = max(_GROUPS, _GROUPS_EACH * count)
    each = values.size // groups
    if each > 1:
        # The largest of each group are as many values; the few of them that are wanted rarely share a group.
        values = values[: groups * each].reshape(each, groups).max(axis=0)
    if count >= values.size:
        return float(values.min(initial=np.inf))
    return float(np.partition(values, values.size - count)[values.size - count])
