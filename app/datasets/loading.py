"""One attempt at loading a dataset into a domain: chunk by chunk with a checkpoint, the index, and the switch."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from sqlalchemy.orm import Session

from app.datasets.ahead import ahead
from app.datasets.copying import CopyChunk, Novelty, copy_chunks, present_templates
from app.datasets.pictures import find_picture
from app.datasets.plan import Mode, Plan
from app.datasets.reembedding import Pictures, ReembedChunk, present_pictures, reembed_chunks
from app.datasets.report import MigrationReport, Progress, Stopwatch
from app.datasets.rows import ReadReport
from app.datasets.spool import Spool, SpooledBatch
from app.db.domains import create_domain, find_domain, lock_domain
from app.db.migration_runs import Step, added, advance, fail, finish, migration_lock, open_run
from app.db.models import Domain, MigrationRun
from app.db.partitions import build_index, drop_index, index_is_valid
from app.db.session import Database, set_local
from app.errors import DatabaseError, DomainNotFound, InvalidDataset, InvalidRequest, MigrationUnfinished
from app.vision.packs import PackManifest

BATCH_ROWS: Final[dict[Mode, int]] = {"copy": 5_000, "reembed": 64}
# Adding a row to an index takes several times as long as building it with that row.
_REBUILD_SHARE: Final = 0.25
_EXAMPLES: Final = 10
# What the reader cannot use at all. Other rows have a picture, at least.
_NO_ROW: Final = ("no_label", "bad_identity", "malformed")

Chunk = CopyChunk | ReembedChunk


@dataclass(frozen=True, slots=True)
class Order:
    """What to move, where to, and how.

    Attributes:
        domain: the name as `app.names.clean_name` keeps it, or an id; made where it does not exist.
        path: the dataset, or a folder with one.
        pack: the active pack: the domain's, where the domain has to be made.
        mode: `auto` chooses.
        batch_rows: rows in one transaction; None takes the mode's own number.
        dry_run: read and report; write nothing.
        resume: only go on with what was broken off.
        allow_numpy: as `read_batches`.
        pictures: how to embed; None where there is no folder of pictures.
        spool_folder: where there is room for the vectors, in temporary files.
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
    spool_folder: Path


@dataclass(slots=True)
class Loading:
    """One attempt at a migration."""

    order: Order
    plan: Plan
    database: Database
    progress: Progress
    watch: Stopwatch
    spool: Spool
    read: ReadReport
    examples: dict[str, list[str]] = field(default_factory=dict)

    def rehearse(self) -> MigrationReport:
        """Find out what would be migrated; write nothing."""
        if self.plan.mode == "reembed":
            missing = self._missing_pictures()
            skipped = added(self._unreadable(), {"picture_missing": missing} if missing else {})
            return self._report(self.spool.rows - missing, 0, None, skipped)
        novelty = Novelty(self._present_templates())
        skipped, migrated = self._unreadable(), 0
        for chunk in copy_chunks(self._batches(), after=0, novelty=novelty, watch=self.watch):
            migrated += len(chunk.labels)
            skipped = added(skipped, chunk.skipped)
        return self._report(migrated, 0, None, skipped)

    def run(self) -> MigrationReport:
        """Migrate what is not yet settled."""
        if self.plan.mode == "reembed" and self.order.pictures and not self.order.pictures.keep_going:
            self._require_pictures()
        with migration_lock(self.database, self.plan.target.domain) as connection:
            domain, run = self._open()
            resumed_at = run.rows_done
            try:
                run = self._load(domain, run)
                with self.watch.timing("index"):
                    self.progress.stage("index", None)
                    # Nobody is enrolled in a domain that is not complete, or they wait.
                    build_index(connection, domain.id, domain.dimension, writers_wait=not domain.complete)
                run = self._switch(domain, run)
            except Exception as error:
                self._note(run, error)
                raise
        return self._report(run.rows_migrated, resumed_at, run.persons, run.skipped, run.seconds)

    def _open(self) -> tuple[Domain, MigrationRun]:
        """The domain, made where it is missing, and the run, begun or taken up again."""
        target, info = self.plan.target, self.plan.info
        with self.database.transaction() as session:
            domain = self._find_or_create(session)
            lock_domain(session, domain.id, contract=target.contract)
            run = open_run(
                session,
                domain.id,
                source=info.path.name,
                sha256=info.sha256,
                mode=self.plan.mode,
                rows_total=self.spool.rows,
                alone=not domain.complete,
            )
            left = self.spool.rows - run.rows_done
            if left and (not domain.complete or left > _REBUILD_SHARE * domain.template_count):
                drop_index(session, domain.id)
            return domain, run

    def _find_or_create(self, session: Session) -> Domain:
        target = self.plan.target
        try:
            return find_domain(session, target.domain)
        except DomainNotFound:
            return create_domain(
                session,
                target.domain,
                model=target.model,
                contract=target.contract,
                dimension=target.dimension,
                complete=False,
            )

    def _load(self, domain: Domain, run: MigrationRun) -> MigrationRun:
        """Store chunk by chunk, each with the checkpoint behind it."""
        self.progress.stage(self.plan.mode, self.spool.rows, run.rows_done)
        with ahead(self._chunks(domain, run.rows_done), 1) as chunks:
            for chunk in chunks:
                with self.watch.timing("store"):
                    run = self._store(domain, run, chunk)
                self.progress.advance(chunk.rows)
                self._collect_examples(chunk)
        return run

    def _store(self, domain: Domain, run: MigrationRun, chunk: Chunk) -> MigrationRun:
        with self.database.bulk_transaction() as session:
            # The disk need not be waited for: rows and checkpoint are lost together, or not at all, and the last transaction
            # waits for everything before it.
            set_local(session, synchronous_commit="off")
            lock_domain(session, domain.id, contract=self.plan.target.contract)
            stored = chunk.store(session, domain.id)
            step = Step(chunk.rows, stored.migrated, stored.persons, stored.skipped, self.watch.take())
            return advance(session, run, step)

    def _chunks(self, domain: Domain, after: int) -> Iterator[Chunk]:
        if self.plan.mode == "copy":
            novelty = Novelty(self._present_templates() if domain.template_count else Counter())
            return copy_chunks(self._batches(), after=after, novelty=novelty, watch=self.watch)
        assert self.order.pictures is not None
        with self.database.bulk_transaction() as session:
            present = present_pictures(session, domain.id)
        return reembed_chunks(self._batches(), self.order.pictures, after=after, present=present, watch=self.watch)

    def _switch(self, domain: Domain, run: MigrationRun) -> MigrationRun:
        """From here on the domain is answered from the database: all of it is there, and indexed."""
        with self.database.transaction() as session:
            domain = lock_domain(session, domain.id, contract=self.plan.target.contract)
            if not index_is_valid(session, domain.id):
                raise MigrationUnfinished("The domain's index was dropped meanwhile: run the migration again.")
            if not domain.template_count:
                raise InvalidDataset(f"No row became a template: {_listed(added(run.skipped, self._unreadable()))}.")
            domain.complete = True
            return finish(session, run, skipped=self._unreadable(), seconds=self.watch.take())

    def _note(self, run: MigrationRun, error: Exception) -> None:
        try:
            with self.database.transaction() as session:
                fail(session, run.id, getattr(error, "code", "internal_error"))
        except DatabaseError:
            pass  # it is what failed; the report then says `interrupted`

    def _batches(self) -> Iterator[SpooledBatch]:
        return self.spool.batches(self.order.batch_rows or BATCH_ROWS[self.plan.mode])

    def _present_templates(self) -> Counter[bytes]:
        try:
            with self.watch.timing("prepare"), self.database.bulk_transaction() as session:
                return present_templates(session, find_domain(session, self.plan.target.domain).id)
        except DomainNotFound:
            return Counter()

    def _unreadable(self) -> dict[str, int]:
        """What the reader could not use, by reason."""
        copied = self.plan.mode == "copy"
        return {reason: count for reason, count in self.read.skipped.items() if copied or reason in _NO_ROW}

    def _missing_pictures(self) -> int:
        assert self.order.pictures is not None
        missing = 0
        for identity in self.spool.identities:
            if find_picture(self.order.pictures.images, identity) is None:
                missing += 1
                self._example("picture_missing", identity)
        return missing

    def _require_pictures(self) -> None:
        if missing := self._missing_pictures():
            raise InvalidRequest(
                f"{missing} of {self.spool.rows} pictures are not in the folder --images,"
                f" {self.examples['picture_missing'][0]!r} among them; --keep-going passes over them."
            )

    def _collect_examples(self, chunk: Chunk) -> None:
        for outcome in chunk.outcomes if isinstance(chunk, ReembedChunk) else ():
            if outcome.reason not in ("", "present", "same_picture"):
                self._example(outcome.reason, outcome.identity)

    def _example(self, reason: str, identity: str) -> None:
        found = self.examples.setdefault(reason, [])
        if len(found) < _EXAMPLES:
            found.append(identity)

    def _report(
        self,
        migrated: int,
        resumed_at: int,
        persons: int | None,
        skipped: Mapping[str, int],
        seconds: Mapping[str, float] | None = None,
    ) -> MigrationReport:
        return MigrationReport(
            plan=self.plan,
            dry_run=self.order.dry_run,
            rows=self.read.rows,
            resumed_at=resumed_at,
            migrated=migrated,
            persons=persons,
            skipped=skipped,
            examples=self.examples,
            seconds=self.watch.seconds if seconds is None else seconds,
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "there was none"
