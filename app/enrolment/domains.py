"""Domains: create, list, report, delete."""

import builtins
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select

from app.audit import record, record_domain
from app.config import Settings
from app.datasets.store import DatasetStore
from app.db.domains import create_domain
from app.db.migration_runs import RunStatus, latest_run, latest_runs
from app.db.models import Domain, Person
from app.db.partitions import IndexState, index_state, rebuild_index
from app.db.references import PhotoCounts, photo_counts
from app.db.session import Database
from app.db.templates import recount_templates
from app.enrolment.lookup import find_domain
from app.errors import DatasetExists, DomainNotFound, ModelError
from app.names import clean_name
from app.pages import Page, decode_cursor, encode_cursor
from app.vision.packs import Licence, PackStore


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """A domain as lists show it; `embeddings` counts its templates."""

    id: UUID
    name: str
    model: str
    contract: str
    dimension: int
    embeddings: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """A domain's status report.

    Attributes:
        reference_photos: of all its persons, by state.
        search: `exact` or `hnsw`, the way its searches begin.
        complete: false until the first migration into it has finished.
        migration: the last one; None where no dataset was ever moved into it.
        licence: of its model pack; None where that is not installed.
    """

    info: DomainInfo
    persons: int
    reference_photos: PhotoCounts
    index: IndexState
    search: str
    complete: bool
    migration: RunStatus | None
    licence: Licence | None

    @property
    def migrated_share(self) -> float:
        """How much of its gallery is in the database, from 0 to 1: 1 for a complete domain."""
        if self.complete:
            return 1.0
        total = self.migration.rows_total if self.migration else None
        return min(1.0, self.migration.rows_done / total) if self.migration and total else 0.0


class DomainService:
    """The operations on domains."""

    def __init__(self, settings: Settings, database: Database, packs: PackStore, datasets: DatasetStore) -> None:
        self._settings = settings
        self._database = database
        self._packs = packs
        self._datasets = datasets

    def create(self, name: str) -> DomainInfo:
        """Make a domain for the active pack's embeddings.

        Raises:
            InvalidName: the name cannot be kept.
            DomainExists: it is taken.
            DatasetExists: a dataset goes by that name: its people, perhaps of a domain that was deleted, would be answered
                with while the database is away.
            ModelError: the active pack cannot be used.
        """
        name = clean_name(name, "domain name")
        if self._datasets.has(name):
            raise DatasetExists(
                f"There is a dataset of the name {name!r}: `flask migrate-pkl` makes the domain of it; to begin with an empty"
                " one, take the dataset away first."
            )
        manifest = self._packs.active(self._settings.face_model).manifest
        with self._database.transaction() as session:
            domain = create_domain(
                session,
                name,
                model=manifest.name,
                contract=manifest.contract.id,
                dimension=manifest.contract.dimension,
            )
            session.refresh(domain)
            info = _info(domain)
            record_domain(session, "domain.created", domain.id, domain.uid, model=domain.model)
        return info

    def list(self, *, limit: int, cursor: str | None) -> Page[DomainInfo]:
        """Domains by name.

        Raises:
            InvalidRequest: the cursor is not one of ours.
        """
        query = select(Domain).order_by(Domain.name).limit(limit + 1)
        if cursor is not None:
            (after,) = decode_cursor(cursor, 1)
            query = query.where(Domain.name > after)
        with self._database.transaction() as session:
            found = [_info(domain) for domain in session.scalars(query)]
        more = len(found) > limit
        return Page(found[:limit], encode_cursor(found[limit - 1].name) if more else None)

    def get(self, name: str) -> DomainInfo:
        """One domain, by name or id, as lists have it.

        Raises:
            DomainNotFound: no such domain.
        """
        with self._database.transaction() as session:
            return _info(find_domain(session, name))

    def report(self, name: str) -> DomainStatus:
        """The status report of a domain, by name or id.

        Raises:
            DomainNotFound: no such domain.
        """
        with self._database.transaction() as session:
            domain = find_domain(session, name)
            persons = session.scalar(select(func.count()).select_from(Person).where(Person.domain_id == domain.id)) or 0
            index = index_state(session, domain.id)
            small = domain.template_count <= self._settings.exact_max_rows(domain.dimension)
            search = "exact" if small or not index.valid else "hnsw"
            migration = latest_run(session, domain.id, domain.name)
            photos = photo_counts(session, domain.id)
            licence = self._licence(domain.model)
            return DomainStatus(_info(domain), persons, photos, index, search, domain.complete, migration, licence)

    def _licence(self, model: str) -> Licence | None:
        try:
            return self._packs.get(model).manifest.licence
        except ModelError:
            return None

    def migrations(self, *, limit: int) -> builtins.list[tuple[str, RunStatus]]:
        """The last migration into each domain, with the domain's name; those that have gone on last stand first."""
        with self._database.transaction() as session:
            return latest_runs(session, limit=limit)

    def reports(self) -> Iterator[DomainStatus]:
        """The status report of every domain, for an examination."""
        with self._database.transaction() as session:
            names = session.scalars(select(Domain.name).order_by(Domain.name)).all()
        for name in names:
            with suppress(DomainNotFound):  # deleted meanwhile
                yield self.report(name)

    def reindex(self, name: str) -> DomainInfo:
        """Rebuild the index, missing, invalid or not, while searches and enrolments go on; count the templates anew.

        Raises:
            DomainNotFound: no such domain.
        """
        with self._database.transaction() as session:
            domain = find_domain(session, name)
        rebuild_index(self._database, domain.id, domain.dimension)
        with self._database.transaction() as session:
            embeddings = recount_templates(session, domain.id)
            record(session, "domain.reindexed", domain_id=domain.id, embeddings=embeddings)
            return _info(find_domain(session, domain.name))


def _info(domain: Domain) -> DomainInfo:
    return DomainInfo(
        id=domain.uid,
        name=domain.name,
        model=domain.model,
        contract=domain.contract,
        dimension=domain.dimension,
        embeddings=domain.template_count,
        created_at=domain.created_at,
    )
