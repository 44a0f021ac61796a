"""Recognition over PostgreSQL and pgvector."""

import time

import structlog

from app.config import Settings
from app.db.domains import load_gallery
from app.db.session import Database
from app.db.vectors import PersonHit, ProbeHits, SearchOptions, search
from app.embedder.client import EmbedderClient
from app.recognition.matching import Candidate, decide
from app.recognition.service import FaceResult, RecognitionRequest, RecognitionResult
from app.vision.faces import Analysis, Face, Float32Array
from app.vision.packs import Calibration, PackStore

log = structlog.stdlib.get_logger("facedex.recognition")


class PgvectorRecognition:
    """The service that answers from the database."""

    mode = "pgvector"

    def __init__(self, settings: Settings, database: Database, embedder: EmbedderClient, packs: PackStore) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._packs = packs
        self._calibrations: dict[tuple[str, str], Calibration] = {}

    def recognize(self, request: RecognitionRequest) -> RecognitionResult:
        """As `RecognitionService.recognize`. Holds no database connection while the pool works."""
        started_s = time.monotonic()
        with self._database.transaction(request.deadline.remaining_s()) as session:
            load_gallery(session, request.domain)  # an unknown domain costs no worker
        analysis = self._embedder.analyze(request.image, deadline=request.deadline, request_id=request.request_id)
        log.info(f"[pgvector] Found {len(analysis.faces)} faces")
        calibration = self._calibration(analysis)
        threshold = calibration.threshold if request.threshold is None else request.threshold
        options = SearchOptions(
            # Two persons at the least: the lead over the second decides.
            top_k=max(request.top_k, 2),
            threshold=threshold,
            margin=calibration.margin,
            exact_max_rows=self._settings.search_exact_max_rows,
            ef_search=self._settings.search_ef,
        )
        searched_s = time.monotonic()
        domain, hits = self._search(request, analysis, options)
        search_ms = (time.monotonic() - searched_s) * 1000
        faces = tuple(
            self._judge(number, face, found, options)
            for number, (face, found) in enumerate(zip(analysis.faces, hits, strict=True))
        )
        named = {face.candidates[0].label for face in faces if face.decision == "match"}
        log.info(f"[pgvector] Recognition completed in {time.monotonic() - started_s:.2f}s, found {len(named)} persons")
        return RecognitionResult(
            mode=self.mode,
            domain=domain,
            model=analysis.model,
            calibration=calibration,
            threshold=threshold,
            top_k=request.top_k,
            width_px=analysis.width_px,
            height_px=analysis.height_px,
            faces=faces,
            timings_ms=analysis.timings_ms | {"search": search_ms},
        )

    def _search(
        self, request: RecognitionRequest, analysis: Analysis, options: SearchOptions
    ) -> tuple[str, list[ProbeHits]]:
        """The domain's name, and what was found for each face."""
        with self._database.transaction(request.deadline.remaining_s()) as session:
            gallery = load_gallery(session, request.domain)
            gallery.require_contract(analysis.contract)
            return gallery.name, search(session, gallery, _embeddings(analysis), options)

    @staticmethod
    def _judge(number: int, face: Face, found: ProbeHits, options: SearchOptions) -> FaceResult:
        candidates = tuple(_candidate(hit) for hit in found.persons)
        log.info(f"[pgvector] Found {len(candidates)} matches for face {number}", path=found.path.value)
        decision = decide(candidates, threshold=options.threshold, margin=options.margin)
        return FaceResult(face, decision, candidates)

    def _calibration(self, analysis: Analysis) -> Calibration:
        key = (analysis.model, analysis.contract)
        if key not in self._calibrations:
            self._calibrations[key] = self._packs.get(analysis.model).manifest.calibration
        return self._calibrations[key]


def _embeddings(analysis: Analysis) -> list[Float32Array]:
    embeddings = [face.embedding for face in analysis.faces]
    return [embedding for embedding in embeddings if embedding is not None]


def _candidate(hit: PersonHit) -> Candidate:
    return Candidate(
        person_id=hit.person_id,
        label=hit.label,
        name=hit.display_name,
        distance=hit.min_distance,
        occurrences=hit.occurrences,
        mean_distance=hit.mean_distance,
    )
