"""What the database knows of a person, and what is noted of their erasure."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.idempotency import Claim
from app.db.models import Domain, Erasure, FaceEmbedding, FaceRejection, IdempotentRequest, Person


@dataclass(frozen=True, slots=True)
class Wanted:
    """The names by which answers may tell of a person.

    Attributes:
        person_id: the person; None of somebody who was none yet.
        names: label, display name and external id.
    """

    person_id: UUID | None
    names: frozenset[str]


def delete_rejections(session: Session, domain_id: int, person_id: UUID, threshold: float) -> int:
    """Delete the rejections of a person, those that say whose face it is instead, and others' that are of the person's face.

    Call it before the templates are deleted.

    Args:
        threshold: the cosine distance within which two embeddings are one person's.

    Returns:
        How many there were.
    """
    own = select(FaceEmbedding.id).where(
        FaceEmbedding.domain_id == domain_id,
        FaceEmbedding.person_id == person_id,
        FaceEmbedding.embedding.cosine_distance(FaceRejection.embedding) <= threshold,
    )
    gone = session.scalars(
        delete(FaceRejection)
        .where(
            FaceRejection.domain_id == domain_id,
            or_(
                FaceRejection.person_id == person_id,
                FaceRejection.actual_person_id == person_id,
                own.correlate(FaceRejection).exists(),
            ),
        )
        .returning(FaceRejection.id)
    )
    return len(gone.all())


def open_erasure(session: Session, erasure: Erasure) -> Erasure:
    """Store the note; it is closed at once where nothing is left to do."""
    session.add(erasure)
    session.flush()
    if not erasure.pending:
        settle(session, erasure.id, erasure.counts, [])
    session.refresh(erasure)
    return erasure


def settle(session: Session, erasure_id: UUID, counts: dict[str, int], pending: Sequence[str]) -> None:
    """Note what was deleted, and what is left to do; where that is nothing, forget labels and former ids."""
    values: dict[str, object] = {"counts": counts, "pending": list(pending)}
    if not pending:
        values |= {"labels": [], "former_ids": [], "finished_at": func.now()}
    session.execute(
        update(Erasure).where(Erasure.id == erasure_id, Erasure.finished_at.is_(None)).values(values),
        execution_options={"synchronize_session": False},
    )


def labels_in_use(session: Session, domain: str, labels: Sequence[str]) -> frozenset[str]:
    """Those that persons of the domain of that name have now."""
    query = select(Person.label).join(Domain, Domain.id == Person.domain_id)
    return frozenset(session.scalars(query.where(Domain.name == domain, Person.label.in_(labels))))


def unfinished(session: Session) -> Sequence[Erasure]:
    """The erasures with something left to do, oldest first."""
    return session.scalars(select(Erasure).where(Erasure.finished_at.is_(None)).order_by(Erasure.erased_at)).all()


def erased_for(session: Session, claim: Claim, claim_sha256: bytes) -> Erasure | None:
    """The erasure that a request with an idempotency key has begun, if it has; not one from before the key ran out."""
    later = select(IdempotentRequest.key).where(
        IdempotentRequest.client == claim.client,
        IdempotentRequest.key == claim.key,
        IdempotentRequest.created_at > Erasure.erased_at,
    )
    query = select(Erasure).where(
        Erasure.requested_by == claim.client,
        Erasure.claim_sha256 == claim_sha256,
        ~later.correlate(Erasure).exists(),
    )
    return session.scalars(query.order_by(Erasure.erased_at.desc()).limit(1)).first()
