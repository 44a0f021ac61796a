"""One attempt at loading a dataset into a domain: chunk by chunk with a checkpoint, the index, and the switch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from app.audit import record, record_domain
from app.datasets.ahead import ahead
from app.datasets.attempt import READ_AHEAD, Attempt, pictures_of
from app.datasets.copying import CopyChunk, Novelty, copy_chunks
from app.datasets.deepface import shown
from app.datasets.reembedding import Picture, ReembedChunk, present_pictures, reembed_chunks
from app.datasets.report import MigrationReport, polled
from app.datasets.rows import RowBatch
from app.db.domains import create_domain, drop_domain, find_domain, lock_domain
from app.db.migration_runs import Step, added, advance, fail, finish, has_run, migration_lock, open_run
from app.db.models import Domain, MigrationRun, Person
from app.db.partitions import build_index, built_rows, drop_index, index_is_valid
from app.db.session import set_local
from app.errors import (
    ContractMismatch,
    DatabaseError,
    DatasetError,
    DomainNotFound,
    FacedexError,
    InvalidDataset,
    InvalidRequest,
    MigrationUnfinished,
    NothingToResume,
)

# Adding a row to an index takes several times as long as building it with that row.
_REBUILD_SHARE: Final = 0.25

Chunk = CopyChunk | ReembedChunk


@dataclass(slots=True)
class Loading(Attempt):
    """An attempt at a migration."""

    _created: bool = False

    def run(self) -> MigrationReport:
        """Migrate what is not yet settled. Nothing is written before something was found that can be migrated."""
        self.progress.stage("read", None)
        with ahead(self.batches(), READ_AHEAD) as batches:
            if self.plan.mode == "copy":
                return self._migrate(self.with_vectors(batches), ())
            rows = pictures_of(batches)
            self._require_pictures(rows)
            return self._migrate(iter(()), rows)

    def _migrate(self, batches: Iterator[RowBatch], rows: Sequence[Picture]) -> MigrationReport:
        with migration_lock(self.database, self.plan.target.domain) as connection:
            domain, run = self._open()
            resumed_at = run.rows_done
            try:
                run = self._load(domain, run, batches, rows)
                self.require_unchanged()
                self._build_index(connection, domain)
                run = self._switch(domain, run)
            except Exception as error:
                self._give_up(domain, run, error)
                raise
        return self.report(
            migrated=run.rows_migrated,
            skipped=run.skipped,
            seconds=run.seconds,
            resumed_at=resumed_at,
            persons=run.persons,
        )

    def _open(self) -> tuple[Domain, MigrationRun]:
        """The domain, made where it is missing, and the run, begun or taken up again."""
        target, info, total = self.plan.target, self.plan.info, self.read.expected
        with self.database.transaction() as session:
            domain = self._find_or_create(session)
            lock_domain(session, domain.id, contract=target.contract)
            if self.order.resume and not has_run(session, domain.id, info.sha256, finished=False):
                raise NothingToResume(f"No migration of this dataset into {target.domain!r} was broken off.")
            again = has_run(session, domain.id, info.sha256, finished=True)
            run = open_run(
                session,
                domain.id,
                source=shown(info.path),
                sha256=info.sha256,
                mode=self.plan.mode,
                rows_total=total,
                alone=not domain.complete,
            )
            if not again and _is_better_built_anew(domain, run):
                drop_index(session, domain.id)
            if self._created:
                record_domain(session, "domain.created", domain.id, domain.uid, model=domain.model)
            return domain, run

    def _find_or_create(self, session: Session) -> Domain:
        target = self.plan.target
        try:
            return find_domain(session, target.domain)
        except DomainNotFound:
            self._created = True
            return create_domain(
                session,
                target.domain,
                model=target.model,
                contract=target.contract,
                dimension=target.dimension,
                complete=False,
            )

    def _load(
        self, domain: Domain, run: MigrationRun, batches: Iterator[RowBatch], rows: Sequence[Picture]
    ) -> MigrationRun:
        """Store chunk by chunk, each with the checkpoint behind it."""
        self.progress.stage(self.plan.mode, run.rows_total, run.rows_done)
        with ahead(self._chunks(domain, run.rows_done, batches, rows), 1) as chunks:
            for chunk in chunks:
                with self.watch.timing("store"):
                    run = self._store(domain, run, chunk)
                self.progress.advance(chunk.rows)
                self._collect_examples(chunk)
        return run

    def _chunks(
        self, domain: Domain, after: int, batches: Iterator[RowBatch], rows: Sequence[Picture]
    ) -> Iterator[Chunk]:
        if self.plan.mode == "copy":
            novelty = Novelty(self.present_templates() if domain.template_count else Counter())
            return copy_chunks(batches, after=after, size=self.chunk_rows, novelty=novelty, watch=self.watch)
        assert self.order.pictures is not None
        with self.database.bulk_transaction() as session:
            present = present_pictures(session, domain.id)
        return reembed_chunks(
            rows,
            self.order.pictures,
            self.plan.target.contract,
            after=after,
            size=self.chunk_rows,
            present=present,
            watch=self.watch,
        )

    def _store(self, domain: Domain, run: MigrationRun, chunk: Chunk) -> MigrationRun:
        with self.database.bulk_transaction() as session:
            # The disk need not be waited for: rows and checkpoint are lost together, or not at all, and the last transaction
            # waits for everything before it.
            set_local(session, synchronous_commit="off")
            lock_domain(session, domain.id, contract=self.plan.target.contract)
            stored = chunk.store(session, domain.id)
            step = Step(chunk.rows, stored.migrated, stored.persons, stored.skipped, self.watch.take())
            return advance(session, run, step)

    def _build_index(self, connection: Connection, domain: Domain) -> None:
        with self.database.transaction() as session:
            rows = lock_domain(session, domain.id).template_count
        self.progress.stage("index", rows)

        def built() -> int:
            with self.database.transaction() as session:
                return built_rows(session, domain.id)

        with self.watch.timing("index"), polled(self.progress, built):
            # Nobody is enrolled in a domain that is not complete, or they wait.
            build_index(connection, domain.id, domain.dimension, writers_wait=not domain.complete)

    def _switch(self, domain: Domain, run: MigrationRun) -> MigrationRun:
        """From here on the domain is answered from the database: all of it is there, and indexed."""
        with self.database.transaction() as session:
            domain = lock_domain(session, domain.id, contract=self.plan.target.contract)
            if not index_is_valid(session, domain.id):
                raise MigrationUnfinished("The domain's index was dropped meanwhile: run the migration again.")
            if not domain.template_count:
                raise InvalidDataset(f"No row became a template: {_listed(added(run.skipped, self.unreadable()))}.")
            domain.complete = True
            run = finish(session, run, skipped=self.unreadable(), seconds=self.watch.take())
            record(
                session,
                "migration.finished",
                domain_id=domain.id,
                mode=run.mode,
                rows=run.rows_total,
                migrated=run.rows_migrated,
                new_persons=run.persons,
                dataset_sha256=run.source_sha256.hex(),
            )
            return run

    def _give_up(self, domain: Domain, run: MigrationRun, error: Exception) -> None:
        """Note the error or, where the dataset itself cannot be used, take back the domain that was made for it."""
        code = error.code if isinstance(error, FacedexError) else "internal_error"
        # A dataset that cannot be used leaves nothing, whichever attempt has made the domain for it.
        unusable = isinstance(error, DatasetError) or (self._created and isinstance(error, ContractMismatch))
        try:
            with self.database.transaction() as session:
                fail(session, run.id, code)
                gone = unusable and _take_back(session, domain.id)
                record(session, "migration.failed", domain_id=domain.id, mode=run.mode, code=code)
                if gone:
                    record_domain(session, "domain.deleted", domain.id, domain.uid, model=domain.model)
        except (DatabaseError, DomainNotFound):
            pass  # it is what failed; the report then says `interrupted`

    def _require_pictures(self, rows: Sequence[Picture]) -> None:
        assert self.order.pictures is not None
        if not self.order.pictures.keep_going and (missing := self.missing_pictures(rows)):
            raise InvalidRequest(
                f"{missing} of {len(rows)} pictures are not in the folder --images,"
                f" {self.examples['picture_missing'][0]!r} among them; --keep-going passes over them."
            )

    def _collect_examples(self, chunk: Chunk) -> None:
        for outcome in chunk.outcomes if isinstance(chunk, ReembedChunk) else ():
            if outcome.reason not in ("", "present", "same_picture"):
                self.example(outcome.reason, outcome.identity)


def _is_better_built_anew(domain: Domain, run: MigrationRun) -> bool:
    """Whether the index is built at the end, or what is there gets the rows one by one."""
    left = (run.rows_total or 0) - run.rows_done
    return left > _REBUILD_SHARE * domain.template_count if domain.complete else left > 0 or not run.rows_done


def _take_back(session: Session, domain_id: int) -> bool:
    """Delete what this attempt has made, unless somebody has added to it meanwhile. Whether it is gone."""
    domain = lock_domain(session, domain_id)
    migrated, made = session.execute(
        select(func.sum(MigrationRun.rows_migrated), func.sum(MigrationRun.persons)).where(
            MigrationRun.domain_id == domain_id
        )
    ).one()
    persons = session.scalar(select(func.count()).select_from(Person).where(Person.domain_id == domain_id))
    if domain.complete or (domain.template_count, persons) != (migrated, made):
        return False
    drop_domain(session, domain_id)
    return True


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "there was none"
