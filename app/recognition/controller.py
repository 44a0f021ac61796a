"""Sends each recognition request to one service: the configured one or, where that cannot answer, the PKL service."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import structlog

from app.errors import (
    ContractMismatch,
    DatabaseUnavailable,
    DatasetError,
    DomainNotFound,
    DomainNotMigrated,
    FacedexError,
)
from app.face_cache.cached import CachedEmbedder
from app.recognition.matching import Decision, decide
from app.recognition.service import (
    FaceHits,
    FaceResult,
    FallbackReason,
    OpenGallery,
    RecognitionRequest,
    RecognitionResult,
    RecognitionService,
    SearchQuery,
)
from app.vision.faces import Analysis, Face, Float32Array
from app.vision.packs import Calibration, PackStore

log = structlog.stdlib.get_logger("facedex.recognition")

# The services as the log calls them.
_LOGGED: Final = {"pgvector": ("PGVECTOR", "pgvector"), "pkl": ("PKL", "PKL")}
_REASONS: Final[dict[type[FacedexError], FallbackReason]] = {
    DatabaseUnavailable: FallbackReason.DATABASE_UNAVAILABLE,
    DomainNotMigrated: FallbackReason.NOT_MIGRATED,
    DomainNotFound: FallbackReason.NOT_MIGRATED,
}
_FALLBACK_ERRORS: Final = (DatabaseUnavailable, DomainNotMigrated, DomainNotFound)


@dataclass(frozen=True, slots=True)
class _Route:
    """Who answers, from what, and which error of the chosen service led there."""

    mode: str
    gallery: OpenGallery
    instead_of: FacedexError | None = None

    @property
    def reason(self) -> FallbackReason | None:
        return next((reason for kind, reason in _REASONS.items() if isinstance(self.instead_of, kind)), None)


class RecognitionController:
    """Answers a request from the chosen service or, where it has one, from the fallback; a picture is analysed once."""

    def __init__(
        self,
        chosen: RecognitionService,
        fallback: RecognitionService | None,
        embedder: CachedEmbedder,
        packs: PackStore,
    ) -> None:
        self._chosen = chosen
        self._fallback = fallback
        self._embedder = embedder
        self._packs = packs
        self._calibrations: dict[tuple[str, str], Calibration] = {}
        # What the chosen service calls the domains that it was asked for: the fallback knows no ids.
        self._names: dict[str, str] = {}

    def recognize(
        self, request: RecognitionRequest, conclude: Callable[[RecognitionResult], object] = lambda _: None
    ) -> RecognitionResult:
        """Search the domain's gallery with every face of the probe.

        Args:
            conclude: called with the result before it is returned: what it stores in the database by `Database.ask` becomes
                the end of the search's own transaction.

        Raises:
            DomainNotFound: no service has such a domain.
            DatabaseUnavailable, DomainNotMigrated: as their names say, and no dataset takes the database's place.
            ContractMismatch: the domain's templates are another model's.
            ImageError, EmbedderError, DatabaseError, DatasetUnavailable: as their names say.
        """
        started_s = time.monotonic()
        route = self._route(request)
        analysis = self._embedder.analyze(
            request.image,
            epoch=route.gallery.key,
            deadline=request.deadline,
            request_id=request.request_id,
            client=request.client,
        )
        calibration = self._calibration(analysis)
        query = SearchQuery(
            contract=analysis.contract,
            # Two persons at the least: the lead over the second decides.
            top_k=max(request.top_k, 2),
            threshold=calibration.threshold if request.threshold is None else request.threshold,
            margin=calibration.margin,
        )
        searched_s = time.monotonic()
        with ExitStack() as stack:
            route, hits = self._search(stack, route, request, _embeddings(analysis), query)
            search_ms = (time.monotonic() - searched_s) * 1000
            log.info(f"[{route.mode}] Found {len(analysis.faces)} faces")
            faces = tuple(
                _judge(route.mode, number, face, found, query)
                for number, (face, found) in enumerate(zip(analysis.faces, hits, strict=True))
            )
            named = {face.candidates[0].label for face in faces if face.decision is Decision.MATCH}
            log.info(
                f"[{route.mode}] Recognition completed in {time.monotonic() - started_s:.2f}s, found {len(named)} persons"
            )
            result = RecognitionResult(
                mode=route.mode,
                domain=route.gallery.domain,
                model=analysis.model,
                calibration=calibration,
                threshold=query.threshold,
                top_k=request.top_k,
                width_px=analysis.width_px,
                height_px=analysis.height_px,
                faces=faces,
                timings_ms=analysis.timings_ms | {"search": search_ms},
                fallback_reason=route.reason,
            )
            conclude(result)
        return result

    def _route(self, request: RecognitionRequest) -> _Route:
        """The gallery to search; found before a worker of the pool is asked, so that an unknown domain costs none."""
        try:
            gallery = self._chosen.open(request.domain, request.deadline)
            if request.domain != gallery.domain:
                self._names[request.domain] = gallery.domain
            if not gallery.complete:
                raise DomainNotMigrated(f"Domain {gallery.domain!r} is not completely in the database yet.")
            return _logged(_Route(self._chosen.mode, gallery))
        except _FALLBACK_ERRORS as error:
            return self._fall_back(request, error)

    def _search(
        self,
        stack: ExitStack,
        route: _Route,
        request: RecognitionRequest,
        probes: list[Float32Array],
        query: SearchQuery,
    ) -> tuple[_Route, list[FaceHits]]:
        """What was found, and where: the database may have gone while the pool was at work."""
        try:
            return route, stack.enter_context(route.gallery.searched(probes, query, request.deadline))
        except _FALLBACK_ERRORS as error:
            route = self._fall_back(request, error)
            return self._search(stack, route, request, probes, query)
        except ContractMismatch as error:
            if route.instead_of is None:
                raise
            raise _unanswered(route.instead_of, error) from error

    def _fall_back(self, request: RecognitionRequest, error: FacedexError) -> _Route:
        """The fallback's gallery, in place of the chosen service's, which answered with `error`."""
        if self._fallback is None:
            raise error
        try:
            name = self._names.get(request.domain, request.domain)
            gallery = self._fallback.open(name, request.deadline)
        except DomainNotFound:
            raise error from None
        except (ContractMismatch, DatasetError) as unusable:
            raise _unanswered(error, unusable) from unusable
        return _logged(_Route(self._fallback.mode, gallery, error))

    def _calibration(self, analysis: Analysis) -> Calibration:
        key = (analysis.model, analysis.contract)
        if key not in self._calibrations:
            self._calibrations[key] = self._packs.get(analysis.model).manifest.calibration
        return self._calibrations[key]


def _logged(route: _Route) -> _Route:
    """The line that operators search for."""
    tag, name = _LOGGED[route.mode]
    log.info(f"[{tag}] Using {name} for recognition, domain={route.gallery.domain}", reason=route.reason or "")
    return route


def _unanswered(error: FacedexError, unusable: FacedexError) -> FacedexError:
    """What is said where neither can answer: what the chosen service said, unless the domain has nothing but its dataset."""
    log.warning(f"[PKL] No fallback: {unusable}")
    return unusable if isinstance(error, DomainNotFound) else error


def _judge(mode: str, number: int, face: Face, found: FaceHits, query: SearchQuery) -> FaceResult:
    log.info(f"[{mode}] Found {len(found.candidates)} matches for face {number}", path=found.path)
    decision = decide(found.candidates, threshold=query.threshold, margin=query.margin)
    return FaceResult(face, decision, found.candidates)


def _embeddings(analysis: Analysis) -> list[Float32Array]:
    embeddings = [face.embedding for face in analysis.faces]
    return [embedding for embedding in embeddings if embedding is not None]
