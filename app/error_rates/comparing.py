"""A gallery compared with itself: pairs of templates (1:1), and templates that search the others (1:N). Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from app.deadline import Deadline
from app.error_rates.tally import Tally
from app.vision.faces import Float32Array

Int64Array = npt.NDArray[np.int64]

# Distances of one block: 16 MiB, and some arrays of the same shape beside them.
_BLOCK_CELLS: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """Templates of a gallery.

    Attributes:
        vectors: float32, (N, D), unit length.
        owners: int64, (N,): whose each is: 0, 1, 2, … without a gap, those of one person one after the other.
    """

    vectors: Float32Array
    owners: Int64Array

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def persons(self) -> int:
        """How many people they are of."""
        return int(self.owners[-1]) + 1 if len(self.owners) else 0


@dataclass(frozen=True, slots=True, eq=False)
class Searches:
    """What probes found among all other templates: cosine distances, float32, (P,); infinite where there is nobody.

    Attributes:
        mate: of the nearest template of the probe's own person.
        other: of the nearest of anybody else.
        second: of the nearest of anybody else again, not the person of `other`.
    """

    mate: Float32Array
    other: Float32Array
    second: Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """Everything that was compared; `genuine` and `impostor` count each pair of templates once."""

    genuine: Tally
    impostor: Tally
    searches: Searches


def compare(
    templates: Templates,
    *,
    probes: int,
    threshold: float,
    deadline: Deadline,
    tell: Callable[[int], None] = lambda _: None,
) -> Comparisons:
    """Compare some templates, drawn at random, with all others.

    Args:
        probes: how many; all where there are fewer.
        threshold: at which the tallies count exactly.
        deadline: when to stop drawing. One block is compared in any case; those that are done are as random a sample.
        tell: is told after each block how many probes it had.
    """
    genuine, impostor = Tally(threshold), Tally(threshold)
    drawn = np.random.default_rng(0).permutation(len(templates))[:probes]
    # The place of each template among the probes: a pair of two probes is counted with the first of them.
    rank = np.full(len(templates), len(templates), np.int64)
    rank[drawn] = np.arange(len(drawn))
    starts = np.flatnonzero(np.diff(templates.owners, prepend=-1))
    found: list[Float32Array] = []
    for rows in _blocks(drawn, max(1, _BLOCK_CELLS // max(1, len(templates)))):
        distances = np.clip(1.0 - templates.vectors[rows] @ templates.vectors.T, 0.0, 2.0)
        own = templates.owners[rows][:, None] == templates.owners[None, :]
        later = rank[None, :] > rank[rows][:, None]
        genuine.add(distances[own & later])
        impostor.add(distances[~own & later])
        found.append(_search(distances, rows, templates.owners[rows], starts))
        tell(len(rows))
        if deadline.expired:
            break
    mate, other, second = np.concatenate(found).T if found else np.empty((3, 0), np.float32)
    return Comparisons(genuine, impostor, Searches(mate, other, second))


def _blocks(rows: Int64Array, size: int) -> Iterator[Int64Array]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _search(distances: Float32Array, rows: Int64Array, owners: Int64Array, starts: Int64Array) -> Float32Array:
    """float32, (P, 3): the attributes of `Searches`. Takes `distances`, (P, N), for itself."""
    lines = np.arange(len(rows))
    distances[lines, rows] = np.inf
    persons = np.minimum.reduceat(distances, starts, axis=1)
    mate = persons[lines, owners]
    persons[lines, owners] = np.inf
    if persons.shape[1] < 2:
        return np.column_stack([mate, np.full((len(rows), 2), np.inf, np.float32)])
    nearest = np.partition(persons, 1, axis=1)[:, :2]
    return np.column_stack([mate, nearest])
