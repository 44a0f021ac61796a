"""Galleries in PostgreSQL, searched with pgvector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.domains import DomainKey, Gallery, load_gallery
from app.db.session import Database
from app.db.vectors import PersonHit, SearchOptions, search
from app.deadline import Deadline
from app.errors import DomainNotMigrated
from app.recognition.matching import Candidate
from app.recognition.service import FaceHits, SearchQuery
from app.vision.faces import Float32Array

T = TypeVar("T")

# Looking a domain up takes a millisecond. A server that needs so much longer has stopped answering.
_LOOKUP_S: Final = 3.0


class PgvectorRecognition:
    """The service that answers from the database."""

    mode = "pgvector"

    def __init__(self, settings: Settings, database: Database, breaker: CircuitBreaker) -> None:
        self._settings = settings
        self._database = database
        self._breaker = breaker

    def open(self, domain: str, deadline: Deadline) -> "PgvectorGallery":
        """As `RecognitionService.open`."""
        limit_s = min(_LOOKUP_S, deadline.remaining_s())
        found = self._ask(lambda session: load_gallery(session, domain), limit_s)
        return PgvectorGallery(self, found)

    def search(
        self, domain: str, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline
    ) -> list[FaceHits]:
        """As `OpenGallery.search`. The domain is looked up again: no connection was held since."""
        options = SearchOptions(
            top_k=query.top_k,
            threshold=query.threshold,
            margin=query.margin,
            exact_max_rows=self._settings.search_exact_max_rows,
            ef_search=self._settings.search_ef,
        )

        def work(session: Session) -> list[FaceHits]:
            gallery = load_gallery(session, domain)
            if not gallery.complete:
                raise DomainNotMigrated(f"Domain {domain!r} is being migrated into the database.")
            gallery.require_contract(query.contract)
            hits = search(session, gallery, list(probes), options)
            return [FaceHits(tuple(map(_candidate, found.persons)), found.path.value) for found in hits]

        return self._ask(work, deadline.remaining_s())

    def _ask(self, work: Callable[[Session], T], limit_s: float) -> T:
        """One transaction of at most `limit_s`; a server that does not keep to it is given up."""
        with self._breaker.guard(), self._database.transaction(limit_s) as session:
            return work(session)


@dataclass(frozen=True, slots=True)
class PgvectorGallery:
    """A domain of the database."""

    service: PgvectorRecognition
    gallery: Gallery

    @property
    def domain(self) -> str:
        """As `OpenGallery.domain`."""
        return self.gallery.name

    @property
    def key(self) -> DomainKey:
        """As `OpenGallery.key`."""
        return self.gallery.key

    @property
    def complete(self) -> bool:
        """As `OpenGallery.complete`."""
        return self.gallery.complete

    def search(self, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline) -> list[FaceHits]:
        """As `OpenGallery.search`."""
        return self.service.search(self.domain, probes, query, deadline)


def _candidate(hit: PersonHit) -> Candidate:
    return Candidate(
        person_id=hit.person_id,
        label=hit.label,
        name=hit.display_name,
        distance=hit.min_distance,
        occurrences=hit.occurrences,
        mean_distance=hit.mean_distance,
    )
