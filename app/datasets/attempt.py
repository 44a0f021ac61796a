"""What an attempt at a migration and its rehearsal have in common: the dataset, read while its rows are used."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from app.datasets.compiled import Source
from app.datasets.copying import present_templates
from app.datasets.deepface import read_batches
from app.datasets.pictures import find_picture
from app.datasets.plan import Mode, Plan
from app.datasets.reembedding import Picture, Pictures
from app.datasets.report import MigrationReport, Progress, Stopwatch
from app.datasets.rows import ReadReport, RowBatch
from app.db.domains import find_domain
from app.db.session import Database
from app.errors import ContractMismatch, DomainNotFound, InvalidDataset
from app.vision.packs import PackManifest

BATCH_ROWS: Final[dict[Mode, int]] = {"copy": 5_000, "reembed": 64}
# About as many MiB: so much that the process which parses never waits.
READ_AHEAD: Final = 8
_EXAMPLES: Final = 10
# What the reader cannot use at all. Other rows have a picture, at least.
_NO_ROW: Final = ("no_label", "bad_identity", "malformed")


@dataclass(frozen=True, slots=True)
class Order:
    """What to move, where to, and how.

    Attributes:
        domain: the name as `app.names.clean_name` keeps it, or an id; made where it does not exist.
        path: the dataset, or a folder with one.
        pack: the active pack: the domain's, where the domain has to be made; its measures decide which pictures are
            good enough.
        mode: `auto` chooses.
        batch_rows: rows in one transaction; None takes the mode's own number.
        dry_run: read and report; write nothing.
        resume: only go on with what was broken off.
        allow_numpy: as `read_batches`.
        pictures: how to embed; None where there is no folder of pictures.
    """

    domain: str
    path: Path
    pack: PackManifest
    mode: Literal["auto"] | Mode
    batch_rows: int | None
    dry_run: bool
    resume: bool
    allow_numpy: bool
    pictures: Pictures | None


@dataclass(slots=True)
class Attempt:
    """A dataset on its way into a domain.

    Attributes:
        order, plan: what is to be done, and how.
        source: the dataset's file as it was when the plan was made.
        database, progress, watch: where to, who is told, and how long it takes.
        read: what the reader has found; filled while it reads.
        examples: some pictures that were left out, by reason.
    """

    order: Order
    plan: Plan
    source: Source
    database: Database
    progress: Progress
    watch: Stopwatch
    read: ReadReport = field(default_factory=ReadReport)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def chunk_rows(self) -> int:
        """Rows that are settled in one transaction."""
        return self.order.batch_rows or BATCH_ROWS[self.plan.mode]

    def batches(self) -> Iterator[RowBatch]:
        """The dataset's rows, timed.

        Raises:
            DatasetError: as the reader.
        """
        batches = read_batches(self.plan.info.path, allow_numpy=self.order.allow_numpy, report=self.read)
        while True:
            with self.watch.timing("read"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def with_vectors(self, batches: Iterator[RowBatch]) -> Iterator[RowBatch]:
        """The same batches, once one of them is known to hold a vector, of the right length.

        Raises:
            InvalidDataset: none does.
            ContractMismatch: the vectors are of another length than the domain's.
            DatasetError: as the reader.
        """
        held: list[RowBatch] = []
        for batch in batches:
            held.append(batch)
            if batch.has_embedding.any():
                length, wanted = batch.embeddings.shape[1], self.plan.target.dimension
                if length != wanted:
                    raise ContractMismatch(
                        f"The dataset's vectors have {length} dimensions, those of {self.plan.target.model!r} {wanted}."
                    )
                return chain(held, batches)
        raise InvalidDataset("The dataset has no row with a usable embedding.")

    def require_unchanged(self) -> None:
        """
        Raises:
            InvalidDataset: the dataset is another one than when the plan was made.
        """
        if Source.of(self.plan.info.path) != self.source:
            raise InvalidDataset("The dataset was changed while it was read.")

    def present_templates(self) -> Counter[bytes]:
        """As `copying.present_templates`; of a domain that does not exist, none."""
        try:
            with self.watch.timing("prepare"), self.database.bulk_transaction() as session:
                return present_templates(session, find_domain(session, self.plan.target.domain).id)
        except DomainNotFound:
            return Counter()

    def unreadable(self) -> dict[str, int]:
        """What the reader could not use, by reason."""
        copied = self.plan.mode == "copy"
        return {reason: count for reason, count in self.read.skipped.items() if copied or reason in _NO_ROW}

    def missing_pictures(self, rows: Sequence[Picture]) -> int:
        """How many rows have no picture in the folder."""
        assert self.order.pictures is not None
        missing = 0
        for identity, _label in rows:
            if find_picture(self.order.pictures.images, identity) is None:
                missing += 1
                self.example("picture_missing", identity)
        return missing

    def example(self, reason: str, identity: str) -> None:
        """Remember a picture that was left out; some are enough."""
        found = self.examples.setdefault(reason, [])
        if len(found) < _EXAMPLES:
            found.append(identity)

    def report(
        self,
        *,
        migrated: int,
        skipped: Mapping[str, int],
        seconds: Mapping[str, float],
        resumed_at: int = 0,
        persons: int | None = None,
    ) -> MigrationReport:
        """What became of it."""
        return MigrationReport(
            plan=self.plan,
            dry_run=self.order.dry_run,
            rows=self.read.rows,
            resumed_at=resumed_at,
            migrated=migrated,
            persons=persons,
            skipped=skipped,
            examples=self.examples,
            seconds={**seconds, "total": self.watch.elapsed_s},
        )


def pictures_of(batches: Iterator[RowBatch]) -> list[Picture]:
    """Path and label of every row."""
    return [row for batch in batches for row in zip(batch.identities, batch.labels, strict=True)]
