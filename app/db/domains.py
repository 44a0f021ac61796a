"""Domains: found by name, made and dropped together with their partition, locked by those who write to them."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.models import ApiKey, AuditChain, Domain, GalleryChange, Person
from app.db.partitions import create_partition, drop_partition, index_name
from app.db.session import Database, fetch_raw
from app.errors import ContractMismatch, DomainExists, DomainNotFound
from app.names import as_uuid

# Faces that are enrolled one after the other are one enrolment.
_ONE_ENROLMENT_S: Final = 60


@dataclass(frozen=True, slots=True)
class DomainKey:
    """What faces that were extracted for a domain are kept under, outside the database (`app.face_cache`).

    Attributes:
        uid: the domain's id.
        epoch: nothing that was kept under an earlier one is of use any more.
        model, contract: the pack that the domain was made for, and the embedding contract of its templates.
    """

    uid: UUID
    epoch: int
    model: str
    contract: str

    @classmethod
    def of(cls, domain: Domain) -> "DomainKey":
        """That domain's, as it was read."""
        return cls(domain.uid, domain.cache_epoch, domain.model, domain.contract)


@dataclass(frozen=True, slots=True)
class Gallery:
    """What a search has to know of a domain.

    Attributes:
        domain_id, uid, name: the domain.
        model: name of the pack that it was made for.
        contract: id of the embedding contract of all its templates.
        dimension: length of its embeddings.
        template_count: number of its templates.
        index_valid: whether its HNSW index can be used.
        complete: false until the first migration into it has finished: whoever is missing may still be on the way.
        cache_epoch: as of `DomainKey`.
    """

    domain_id: int
    uid: UUID
    name: str
    model: str
    contract: str
    dimension: int
    template_count: int
    index_valid: bool
    complete: bool
    cache_epoch: int

    @property
    def key(self) -> DomainKey:
        """What faces that were extracted for it are kept under."""
        return DomainKey(self.uid, self.cache_epoch, self.model, self.contract)

    def require_contract(self, contract: str) -> None:
        """Refuse embeddings of another contract.

        Raises:
            ContractMismatch: `contract` is not the domain's.
        """
        _require_contract(self.name, self.contract, contract)


_GALLERY_SQL: Final = """
SELECT d.id, d.uid, d.name, d.model, d.contract, d.dimension, d.template_count,
    coalesce(i.indisvalid AND i.indisready, false), d.complete, d.cache_epoch
FROM (
    SELECT * FROM domains WHERE name = %(name)s OR uid = %(uid)s ORDER BY (name = %(name)s) DESC LIMIT 1
) AS d
LEFT JOIN pg_index AS i ON i.indexrelid = to_regclass('{}' || d.id || '{}')
""".format(*index_name(0).split("0"))  # noqa: S608 - constants


def load_gallery(session: Session, domain: str) -> Gallery:
    """The domain of that name or, where none has it, of that `uid`; in one round trip.

    Raises:
        DomainNotFound: no such domain.
    """
    return _gallery(fetch_raw(session, _GALLERY_SQL, _gallery_values(domain)), domain)


def look_up_gallery(database: Database, domain: str, timeout_s: float | None = None) -> Gallery:
    """As `load_gallery`, in a transaction of its own.

    Raises:
        DomainNotFound: no such domain.
        DatabaseError: as `Database.transaction`.
    """
    return _gallery(database.ask(_GALLERY_SQL, _gallery_values(domain), timeout_s), domain)


def _gallery_values(domain: str) -> dict[str, object]:
    return {"name": domain, "uid": as_uuid(domain)}


def _gallery(rows: list[tuple[Any, ...]], domain: str) -> Gallery:
    if not rows:
        raise _not_found(domain)
    return Gallery(*rows[0])


def find_domain(session: Session, domain: str) -> Domain:
    """The domain of that name or, where none has it, of that `uid`.

    Raises:
        DomainNotFound: no such domain.
    """
    found = session.scalars(
        select(Domain)
        .where((Domain.name == domain) | (Domain.uid == as_uuid(domain)))
        .order_by((Domain.name == domain).desc())
        .limit(1)
    ).first()
    if found is None:
        raise _not_found(domain)
    return found


def lock_domain(session: Session, domain_id: int, *, contract: str | None = None) -> Domain:
    """Queue up with the domain's other writers until this transaction ends. Searches are not held up.

    Every transaction that adds or removes templates or persons takes this lock first: it keeps `template_count` right,
    makes changes of one domain commit in one order, and, always being the first, cannot deadlock.

    Raises:
        DomainNotFound: it was deleted meanwhile.
        ContractMismatch: `contract` is given and not the domain's.
    """
    # FOR NO KEY UPDATE: references to the row (inserting a person) stay possible for those who do not write templates.
    query = select(Domain).where(Domain.id == domain_id).with_for_update(key_share=True)
    domain = session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
    if domain is None:
        raise DomainNotFound("The domain was deleted.")
    if contract is not None:
        _require_contract(domain.name, domain.contract, contract)
    return domain


def raise_cache_epoch(session: Session, domain_id: int) -> None:
    """From this transaction's end on, nobody goes by faces that were extracted for the domain before and kept elsewhere."""
    session.execute(
        update(Domain).where(Domain.id == domain_id).values(cache_epoch=Domain.cache_epoch + 1),
        execution_options={"synchronize_session": False},
    )


def raise_cache_epoch_for_enrolment(session: Session, domain_id: int, person_id: UUID) -> None:
    """As `raise_cache_epoch`, where a person who has faces already is about to be enrolled anew.

    Once for the pictures of one enrolment: not where the person got a face within the last minute.
    """
    session.execute(
        text(
            "UPDATE domains SET cache_epoch = cache_epoch + 1 WHERE id = :domain_id AND ("
            " SELECT max(created_at) < now() - make_interval(secs => :secs) FROM face_embeddings"
            " WHERE domain_id = :domain_id AND person_id = :person_id)"
        ),
        {"domain_id": domain_id, "person_id": person_id, "secs": _ONE_ENROLMENT_S},
    )


def cache_epochs(session: Session, uids: Collection[UUID]) -> dict[UUID, int]:
    """The present `cache_epoch` of each of these domains; without those that there are not."""
    rows = session.execute(select(Domain.uid, Domain.cache_epoch).where(Domain.uid.in_(uids)))
    return {row.uid: row.cache_epoch for row in rows}


def create_domain(
    session: Session, name: str, *, model: str, contract: str, dimension: int, complete: bool = True
) -> Domain:
    """Make a domain with its empty partition, index and chain of events.

    Args:
        complete: not so where a migration is about to fill it.

    Raises:
        DomainExists: the name is taken, or is another domain's `uid`, which it would hide; the transaction is still usable.
    """
    if (uid := as_uuid(name)) is not None and session.scalar(select(Domain.id).where(Domain.uid == uid)) is not None:
        raise DomainExists(f"{name!r} is the id of another domain.")
    domain = Domain(name=name, model=model, contract=contract, dimension=dimension, complete=complete)
    try:
        with session.begin_nested():
            session.add(domain)
            session.flush()
    except IntegrityError as error:
        if _constraint(error) != "domains_name_key":
            raise
        raise DomainExists(f"A domain named {name!r} exists already.") from error
    create_partition(session, domain.id, dimension)
    session.add(AuditChain(domain_id=domain.id, domain_uid=domain.uid, head_hash=bytes(32), pruned_hash=bytes(32)))
    session.flush()
    return domain


def drop_domain(session: Session, domain_id: int) -> None:
    """Delete the domain with its persons, templates and index. No key is for its name any more: another may get it.

    Raises:
        DomainNotFound: no such domain.
    """
    name = lock_domain(session, domain_id).name
    session.execute(
        update(ApiKey).where(ApiKey.domains.contains([name])).values(domains=func.array_remove(ApiKey.domains, name)),
        execution_options={"synchronize_session": False},
    )
    drop_partition(session, domain_id)
    session.execute(delete(GalleryChange).where(GalleryChange.domain_id == domain_id))
    session.execute(delete(Person).where(Person.domain_id == domain_id))
    session.execute(delete(Domain).where(Domain.id == domain_id))


def _not_found(domain: str) -> DomainNotFound:
    return DomainNotFound(f"There is no domain named {domain!r}.")


def _require_contract(name: str, wanted: str, given: str) -> None:
    if given != wanted:
        raise ContractMismatch(f"Domain {name!r} holds embeddings of {wanted}; these are of {given}.")


def _constraint(error: IntegrityError) -> str | None:
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None)
