"""The pictures of a dataset, embedded anew: for a dataset whose model is not the domain's."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.datasets.copying import Stored
from app.datasets.pictures import find_picture
from app.datasets.report import Stopwatch
from app.db.migration_runs import added
from app.db.partitions import partition_name
from app.db.persons import ensure_persons
from app.db.templates import NewTemplate, insert_templates
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.errors import (
    ContractMismatch,
    ImageError,
    ModelUnavailable,
    PoolBusy,
    RecognitionError,
    WorkerCrashed,
    WorkerTimeout,
)
from app.vision.faces import Analysis, Face

# A picture's path in the dataset and its person's label; a person's label and the SHA-256 of a picture.
Picture = tuple[str, str]
Known = tuple[str, bytes]

_BUSY_PATIENCE_S: Final = 120.0
_BUSY_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Pictures:
    """How pictures become templates.

    Attributes:
        images: the folder that they are in.
        embedder: the pool.
        choose: the face of a picture that is enrolled; raises a `RecognitionError` where none is good enough.
        parallel: pictures in the pool at the same time.
        deadline_s: for each.
        max_bytes: of a picture's file.
        keep_going: pass over pictures that are missing, or that a worker died of, instead of giving up.
    """

    images: Path
    embedder: EmbedderClient
    choose: Callable[[Analysis], Face]
    parallel: int
    deadline_s: float
    max_bytes: int
    keep_going: bool


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one row: a face and its picture's SHA-256, or the reason why there is none."""

    identity: str
    label: str
    face: Face | None = None
    sha256: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReembedChunk:
    """Some rows of a dataset, embedded."""

    outcomes: tuple[Outcome, ...]

    @property
    def rows(self) -> int:
        """Rows of the dataset that are settled with it."""
        return len(self.outcomes)

    def store(self, session: Session, domain_id: int) -> Stored:
        """Store it, under the domain's lock, which the caller holds."""
        found = [outcome for outcome in self.outcomes if outcome.face is not None]
        skipped: dict[str, int] = {}
        for outcome in self.outcomes:
            if outcome.face is None:
                skipped = added(skipped, {outcome.reason: 1})
        if not found:
            return Stored(0, 0, skipped)
        persons, made = ensure_persons(session, domain_id, {outcome.label for outcome in found})
        templates = [
            _template(outcome, outcome.face, persons[outcome.label])
            for outcome in found
            if outcome.label in persons and outcome.face is not None
        ]
        stored = insert_templates(session, domain_id, templates)
        lost = {"label_is_an_id": len(found) - len(templates), "present": len(templates) - len(stored)}
        return Stored(len(stored), made, added(skipped, {reason: count for reason, count in lost.items() if count}))


def require_pool(embedder: EmbedderClient, contract: str) -> None:
    """Refuse a pool of another contract before it is given work.

    One that has no time to say is let pass: each of its answers is checked as well.

    Raises:
        ContractMismatch: its model is another one.
        ModelUnavailable: it has none.
        EmbedderUnavailable: it is not there.
    """
    try:
        status = embedder.status()
    except (PoolBusy, WorkerTimeout, WorkerCrashed):
        return
    if status.contract is None:
        raise ModelUnavailable("The worker pool has no model loaded.")
    _require_contract(status.contract, contract)


def reembed_chunks(
    rows: Sequence[Picture],
    pictures: Pictures,
    contract: str,
    *,
    after: int,
    size: int,
    present: set[Known],
    watch: Stopwatch,
) -> Iterator[ReembedChunk]:
    """Chunks of `size` rows, without the first `after`. A picture with several rows gives one template, its main face.

    Args:
        contract: the domain's; a face of another one ends it.
        present: what the domain has already: it costs no worker.

    Raises:
        ContractMismatch: the pool's model is another one than the domain's.
        EmbedderError: the pool does not answer; or a worker died of a picture, unless `keep_going`.
    """
    first_rows = {row: number for number, row in reversed(list(enumerate(rows)))}

    def work(number: int) -> Outcome:
        identity, label = row = rows[number]
        if first_rows[row] != number:
            return Outcome(identity, label, reason="same_picture")
        return _embed(identity, label, pictures, contract, present)

    with ThreadPoolExecutor(max_workers=pictures.parallel) as threads:
        for start in range(after, len(rows), size):
            with watch.timing("embed"):
                outcomes = tuple(threads.map(work, range(start, min(start + size, len(rows)))))
            yield ReembedChunk(outcomes)


def present_pictures(session: Session, domain_id: int) -> set[Known]:
    """Label and SHA-256 of the pictures that the domain has."""
    query = text(
        f"SELECT p.label, t.image_sha256 FROM {partition_name(domain_id)} AS t"  # noqa: S608 - digits
        " JOIN persons AS p ON p.id = t.person_id WHERE t.image_sha256 IS NOT NULL"
    )
    return {(label, bytes(digest)) for label, digest in session.execute(query)}


def _embed(identity: str, label: str, pictures: Pictures, contract: str, present: set[Known]) -> Outcome:
    path = find_picture(pictures.images, identity)
    if path is None:
        return Outcome(identity, label, reason="picture_missing")
    try:
        if path.stat().st_size > pictures.max_bytes:
            return Outcome(identity, label, reason="upload_too_large")
        data = path.read_bytes()
    except OSError:
        return Outcome(identity, label, reason="picture_missing")
    digest = hashlib.sha256(data).digest()
    if (label, digest) in present:
        return Outcome(identity, label, reason="present")
    try:
        analysis = analyze_patiently(pictures.embedder, data, pictures.deadline_s, contract)
        return Outcome(identity, label, pictures.choose(analysis), digest)
    except (ImageError, RecognitionError) as error:
        return Outcome(identity, label, reason=error.code)
    except (WorkerCrashed, WorkerTimeout) as error:
        if not pictures.keep_going:
            raise
        return Outcome(identity, label, reason=error.code)


def analyze_patiently(embedder: EmbedderClient, data: bytes, deadline_s: float, contract: str) -> Analysis:
    """As `EmbedderClient.analyze`, for work that nobody waits for: other clients come first, and a full queue is waited for.

    Raises:
        ContractMismatch: the pool's model is of another contract.
        ImageError, EmbedderError: as `EmbedderClient.analyze`.
    """
    until_s = time.monotonic() + _BUSY_PATIENCE_S
    while True:
        try:
            analysis = embedder.analyze(
                data, deadline=Deadline.after(deadline_s), request_id="migrate", client="migrate"
            )
        except PoolBusy:
            if time.monotonic() > until_s:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            _require_contract(analysis.contract, contract)
            return analysis


def _require_contract(made: str, wanted: str) -> None:
    """
    Raises:
        ContractMismatch: vectors of two models would meet.
    """
    if made != wanted:
        raise ContractMismatch(
            f"The worker pool's model makes {made}, the domain holds {wanted}: choose the domain's pack"
            " (flask --app wsgi models use) and restart the service."
        )


def _template(outcome: Outcome, face: Face, person_id: UUID) -> NewTemplate:
    assert face.embedding is not None
    return NewTemplate(
        person_id=person_id,
        embedding=face.embedding,
        image_sha256=outcome.sha256,
        box=face.box,
        score=face.score,
        sharpness=face.quality.sharpness,
    )
