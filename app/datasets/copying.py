"""The rows of a dataset as templates, vector by vector: for a dataset whose model is the domain's."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.datasets.report import Stopwatch
from app.datasets.rows import RowBatch
from app.db.copying import Int32Array, TemplateBatch
from app.db.partitions import partition_name
from app.db.persons import ensure_persons
from app.db.templates import copy_templates, random_ids
from app.vision.faces import Box, Float32Array

_INT32: Final = np.iinfo(np.int32)
# A vector this near to unit length differs from it by rounding only: it stays as it is, bit for bit.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Stored:
    """What one chunk became: templates, new persons, and rows skipped by reason."""

    migrated: int
    persons: int
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class CopyChunk:
    """Some rows of a dataset, ready to be stored.

    Attributes:
        rows: rows of the dataset that are settled with it.
        skipped: of them, those that are no templates, by reason.
        labels: N of them.
        boxes: int32, (N, 4).
        vectors: float32, (N, D), unit length.
    """

    rows: int
    skipped: dict[str, int]
    labels: list[str]
    boxes: Int32Array
    vectors: Float32Array

    def store(self, session: Session, domain_id: int) -> Stored:
        """Store it, under the domain's lock, which the caller holds."""
        persons, made = ensure_persons(session, domain_id, set(self.labels))
        kept = [n for n, label in enumerate(self.labels) if label in persons]
        lost = len(self.labels) - len(kept)
        if kept:
            copy_templates(
                session,
                domain_id,
                TemplateBatch(
                    ids=random_ids(len(kept)),
                    person_ids=_uuid_bytes([persons[self.labels[n]].bytes for n in kept]),
                    embeddings=self.vectors[kept] if lost else self.vectors,
                    image_sha256=None,
                    boxes=self.boxes[kept] if lost else self.boxes,
                    scores=np.zeros(len(kept), np.float32),
                    sharpness=np.zeros(len(kept), np.float32),
                ),
            )
        return Stored(len(kept), made, self.skipped | ({"label_is_an_id": lost} if lost else {}))


@dataclass(slots=True)
class Novelty:
    """Tells rows that are new from those that the dataset has twice, and from those that the domain has already.

    Attributes:
        present: how many templates of each person and vector the domain held at first; used up row by row, so that a dataset's
            two faces with the same vector are both kept.
    """

    present: Counter[bytes] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)

    def judge(self, identity: str, label: str, raw: Float32Array, unit: Float32Array) -> str | None:
        """Why the row is not new: `duplicate`, `present`; None where it is."""
        key = hashlib.blake2b(raw.tobytes(), digest_size=16, key=b"row")
        key.update(identity.encode())
        size = len(self._seen)
        self._seen.add(key.digest())
        if len(self._seen) == size:
            return "duplicate"
        if self.present and self.present[stored := _template_key(label, unit)] > 0:
            self.present[stored] -= 1
            return "present"
        return None


def present_templates(session: Session, domain_id: int) -> Counter[bytes]:
    """How many templates the domain holds of each person and vector."""
    query = text(
        # The keys of `_template_key`: the vector as pgvector sends it.
        "SELECT sha256(convert_to(p.label, 'UTF8') || CAST('\\x00' AS bytea) || vector_send(t.embedding)), count(*)"  # noqa: S608
        f" FROM {partition_name(domain_id)} AS t JOIN persons AS p ON p.id = t.person_id GROUP BY 1"
    )
    return Counter({bytes(key): count for key, count in session.execute(query)})


def copy_chunks(
    batches: Iterator[RowBatch], *, after: int, size: int, novelty: Novelty, watch: Stopwatch
) -> Iterator[CopyChunk]:
    """Chunks of `size` rows, without the first `after` rows: those are only looked at to tell what is new.

    Raises:
        DatasetError: as the reader.
    """
    position = 0
    for batch in rebatched(batches, size):
        settled = max(0, min(len(batch), after - position))
        with watch.timing("prepare"):
            chunk = _prepare(batch, novelty, settled)
        position += len(batch)
        if chunk.rows:
            yield chunk


def rebatched(batches: Iterator[RowBatch], size: int) -> Iterator[RowBatch]:
    """The same rows in the same order, `size` at a time."""
    held: list[RowBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        if count >= size:
            joined = _joined(held)
            whole = count - count % size
            yield from (_part(joined, start, start + size) for start in range(0, whole, size))
            held, count = [_part(joined, whole, count)], count - whole
    if count:
        yield _joined(held)


def normalised(vectors: Float32Array) -> Float32Array:
    """The vectors at unit length; those that are so but for rounding, unchanged.

    Args:
        vectors: float32, (N, D), finite and not zero.
    """
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    norms[np.abs(norms - 1.0) <= _ROUNDING] = 1.0
    units: Float32Array = (exact / norms).astype(np.float32)
    return units


def _prepare(batch: RowBatch, novelty: Novelty, settled: int) -> CopyChunk:
    """The chunk of the batch's rows after the first `settled`."""
    usable = np.flatnonzero(batch.has_embedding)
    raw = batch.embeddings[usable]
    units = normalised(raw)
    reasons = [
        novelty.judge(batch.identities[row], batch.labels[row], raw[n], units[n])
        for n, row in enumerate(usable.tolist())
    ]
    unsettled = [(n, row) for n, row in enumerate(usable.tolist()) if row >= settled]
    new = [(n, row) for n, row in unsettled if reasons[n] is None]
    return CopyChunk(
        rows=len(batch) - settled,
        skipped=dict(Counter(reason for n, _ in unsettled if (reason := reasons[n]) is not None)),
        labels=[batch.labels[row] for _, row in new],
        boxes=_box_columns([batch.boxes[row] for _, row in new]),
        vectors=units[[n for n, _ in new]],
    )


def _joined(batches: list[RowBatch]) -> RowBatch:
    # Before the first vector was seen, their length was not known.
    embeddings = np.zeros((sum(map(len, batches)), max(batch.embeddings.shape[1] for batch in batches)), np.float32)
    start = 0
    for batch in batches:
        embeddings[start : start + len(batch), : batch.embeddings.shape[1]] = batch.embeddings
        start += len(batch)
    return RowBatch(
        identities=[identity for batch in batches for identity in batch.identities],
        labels=[label for batch in batches for label in batch.labels],
        boxes=[box for batch in batches for box in batch.boxes],
        embeddings=embeddings,
        has_embedding=np.concatenate([batch.has_embedding for batch in batches]),
    )


def _part(batch: RowBatch, start: int, end: int) -> RowBatch:
    part = slice(start, end)
    return RowBatch(
        batch.identities[part],
        batch.labels[part],
        batch.boxes[part],
        batch.embeddings[part],
        batch.has_embedding[part],
    )


def _template_key(label: str, unit: Float32Array) -> bytes:
    head = len(unit).to_bytes(2, "big") + b"\0\0"
    return hashlib.sha256(label.encode() + b"\0" + head + unit.astype(">f4").tobytes()).digest()


def _uuid_bytes(values: list[bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), 16)


def _box_columns(boxes: list[Box | None]) -> Int32Array:
    """int32, (N, 4); zeros where unknown. Numbers that no picture has are cut to what a column holds."""
    sides = [(0, 0, 0, 0) if box is None else (box.x, box.y, box.w, box.h) for box in boxes]
    exact = np.array(sides, dtype=np.float64).reshape(len(boxes), 4)
    return np.clip(exact, _INT32.min, _INT32.max).astype(np.int32)
