"""Galleries in PostgreSQL, searched with pgvector."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.domains import DomainKey, Gallery, look_up_gallery
from app.db.session import Database
from app.db.vectors import PersonHit, SearchOptions, search, search_settings
from app.deadline import Deadline
from app.errors import DomainNotFound, DomainNotMigrated
from app.recognition.matching import Candidate
from app.recognition.service import FaceHits, SearchQuery
from app.vision.faces import Float32Array

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
        with self._breaker.guard():
            return PgvectorGallery(self, look_up_gallery(self._database, domain, limit_s))

    @contextmanager
    def searched(
        self, gallery: Gallery, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline
    ) -> Generator[list[FaceHits]]:
        """As `OpenGallery.searched`. The domain may have been deleted since it was opened, and made anew."""
        with ExitStack() as stack:
            if gallery.template_count == 0 and probes:  # nobody was there then; somebody may be by now
                gallery = self.open(gallery.name, deadline).gallery
            try:
                hits = stack.enter_context(self._found(gallery, probes, query, deadline))
            except DomainNotFound:
                anew = self.open(gallery.name, deadline).gallery
                if not anew.complete:
                    raise DomainNotMigrated(f"Domain {anew.name!r} is being migrated into the database.") from None
                hits = stack.enter_context(self._found(anew, probes, query, deadline))
            yield hits

    @contextmanager
    def _found(
        self, gallery: Gallery, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline
    ) -> Generator[list[FaceHits]]:
        """In one transaction; a server that does not keep to the deadline is given up."""
        gallery.require_contract(query.contract)
        if not probes:
            yield []
            return
        options = SearchOptions(
            top_k=query.top_k,
            threshold=query.threshold,
            margin=query.margin,
            exact_max_rows=self._settings.exact_max_rows(gallery.dimension),
            ef_search=self._settings.search_ef,
        )
        settings = search_settings(gallery, options)
        with (
            self._breaker.guard(),
            self._database.bare_transaction(deadline.remaining_s(), settings) as transaction,
        ):
            hits = search(transaction, gallery, list(probes), options)
            yield [FaceHits(tuple(map(_candidate, found.persons)), found.path.value) for found in hits]


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

    def searched(
        self, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline
    ) -> AbstractContextManager[list[FaceHits]]:
        """As `OpenGallery.searched`."""
        return self.service.searched(self.gallery, probes, query, deadline)


def _candidate(hit: PersonHit) -> Candidate:
    return Candidate(
        person_id=hit.person_id,
        label=hit.label,
        name=hit.display_name,
        distance=hit.min_distance,
        occurrences=hit.occurrences,
        mean_distance=hit.mean_distance,
    )
