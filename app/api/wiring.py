"""The one place where the web application is put together."""

from dataclasses import dataclass
from typing import Final

from flask import Flask, current_app, jsonify
from flask.typing import ResponseReturnValue
from flask_openapi3 import Info, OpenAPI

from app.api.auth import Gate
from app.api.browser_session import BrowserSessions
from app.api.long_requests import LongRequests
from app.api.sweeping import AnswerSweep, GallerySweep, MinutelySweep, SessionSweep
from app.api.throttle import Throttle
from app.audit.log import AuditLog
from app.config import Settings
from app.datasets.store import DatasetStore
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.embedder.client import EmbedderClient
from app.enrolment.directory import PersonDirectory
from app.enrolment.domains import DomainService
from app.enrolment.duplicates import DuplicateService
from app.enrolment.extraction import PhotoExtractor
from app.enrolment.faces import FaceService
from app.enrolment.images import ImageStore
from app.enrolment.jobs import JobService
from app.enrolment.merging import MergeService
from app.enrolment.outliers import OutlierService
from app.enrolment.persons import PersonService
from app.enrolment.references import ReferenceService
from app.enrolment.rejections import RejectionService
from app.enrolment.thumbnails import ThumbnailService
from app.erasure.building import build_erasure
from app.erasure.export import PersonExport
from app.erasure.service import ErasureService
from app.error_rates.service import ErrorRateService
from app.face_cache.building import build_store
from app.face_cache.cached import CachedEmbedder
from app.gallery_feed.service import GalleryFeed
from app.keys.admin_key import AdminKey
from app.keys.authentication import Authenticator
from app.keys.keeper import KeyKeeper
from app.keys.rates import RateLimits
from app.keys.service import KeyService
from app.keys.slots import Slots, places_of_a_key
from app.recognition.controller import RecognitionController
from app.recognition.pgvector import PgvectorRecognition
from app.recognition.pkl import PklRecognition
from app.sessions.service import SessionService
from app.streaming.server import StreamServer
from app.verification.person import PersonVerificationService
from app.verification.service import VerificationService
from app.version import VERSION
from app.vision.packs import InstalledPack, PackStore

_EXTENSION = "facedex"
_MAX_JSON_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that views and commands use."""

    settings: Settings
    database: Database
    embedder: EmbedderClient
    cached: CachedEmbedder
    packs: PackStore
    datasets: DatasetStore
    domains: DomainService
    directory: PersonDirectory
    persons: PersonService
    images: ImageStore
    faces: FaceService
    thumbnails: ThumbnailService
    erasure: ErasureService
    exports: PersonExport
    merging: MergeService
    references: ReferenceService
    rejections: RejectionService
    duplicates: DuplicateService
    error_rates: ErrorRateService
    outliers: OutlierService
    feed: GalleryFeed
    jobs: JobService
    recognition: RecognitionController
    verification: VerificationService
    person_verification: PersonVerificationService
    sessions: SessionService
    long_requests: LongRequests
    keeper: KeyKeeper
    keys: KeyService
    audit: AuditLog
    answers: AnswerSweep
    session_sweep: SessionSweep
    gallery_sweep: GallerySweep
    streams: StreamServer
    gate: Gate

    @property
    def sweeps(self) -> tuple[MinutelySweep, ...]:
        """Everything that is kept for a time only; web processes and jobs workers see to it."""
        return self.answers, self.session_sweep, self.gallery_sweep

    def active_pack(self) -> InstalledPack:
        """The chosen model pack.

        Raises:
            UnknownModel, InvalidPack: as `PackStore.active`.
        """
        return self.packs.active(self.settings.face_model)


def build_services(settings: Settings) -> Services:
    """The services of one process; they connect when they are first used."""
    database = Database(settings)
    breaker = CircuitBreaker()  # one for all that asks the database: who finds it away says so for the others
    keeper = KeyKeeper(settings, database.reserve, breaker)
    embedder = EmbedderClient(settings.embedder_address)
    cached = CachedEmbedder(embedder, build_store(settings, database, breaker))
    packs = PackStore(settings.models_dir)
    datasets = DatasetStore(settings, packs)
    images = ImageStore(settings.images_dir, enabled=settings.store_images)
    sessions = SessionService(settings, database, embedder, packs, images, key_ended=keeper.has_ended)
    feed = GalleryFeed(database, settings.gallery_tombstones_keep_s)
    return Services(
        settings=settings,
        database=database,
        embedder=embedder,
        cached=cached,
        packs=packs,
        datasets=datasets,
        domains=DomainService(settings, database, packs, datasets),
        directory=PersonDirectory(settings, database, packs, images),
        persons=PersonService(database),
        images=images,
        faces=FaceService(settings, database, cached, packs, images),
        thumbnails=ThumbnailService(settings, database, embedder, images),
        erasure=build_erasure(settings, database, packs, datasets, images),
        exports=PersonExport(database, images),
        merging=MergeService(database, images),
        references=ReferenceService(
            settings, database, PhotoExtractor(settings, database, embedder, packs, images), images
        ),
        rejections=RejectionService(settings, database, cached, packs),
        duplicates=DuplicateService(settings, database, packs, images),
        outliers=OutlierService(settings, database, packs, images),
        error_rates=ErrorRateService(database, packs),
        feed=feed,
        jobs=JobService(database),
        recognition=_recognition(settings, database, breaker, datasets, cached, packs),
        verification=VerificationService(embedder, packs),
        person_verification=PersonVerificationService(database, breaker, embedder, packs),
        sessions=sessions,
        long_requests=LongRequests(settings.web_threads),
        keeper=keeper,
        keys=KeyService(settings, database, datasets, keeper),
        audit=AuditLog(settings, database, breaker),
        answers=AnswerSweep(settings, database, breaker),
        session_sweep=SessionSweep(settings, sessions, breaker),
        gallery_sweep=GallerySweep(settings, feed, breaker),
        streams=StreamServer(settings),
        gate=_gate(settings, keeper),
    )


def _gate(settings: Settings, keeper: KeyKeeper) -> Gate:
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    return Gate(
        Authenticator(AdminKey(settings.admin_key_file), keeper),
        Throttle(settings, RateLimits(redis_url), Slots(places_of_a_key(settings))),
        BrowserSessions(settings.pages_key_file),
    )


def _recognition(
    settings: Settings,
    database: Database,
    breaker: CircuitBreaker,
    datasets: DatasetStore,
    embedder: CachedEmbedder,
    packs: PackStore,
) -> RecognitionController:
    pkl = PklRecognition(datasets)
    if not settings.vector_db_enabled:
        return RecognitionController(pkl, None, embedder, packs)
    return RecognitionController(PgvectorRecognition(settings, database, breaker), pkl, embedder, packs)


def services() -> Services:
    """The services of the current application."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """The services of an application."""
    found: Services = app.extensions[_EXTENSION]
    return found


def build_app(settings: Settings) -> OpenAPI:
    """The Flask application with its routes, commands and error answers."""
    from app.api import (
        audit,
        detect,
        domains,
        duplicates,
        embeddings,
        error_rates,
        faces,
        gallery,
        health,
        imports,
        jobs,
        keys,
        operations,
        outliers,
        persons,
        recognize,
        references,
        rejections,
        sessions,
        streams,
        thumbnails,
        verify,
        verify_person,
    )
    from app.api.access import open_to_every_key
    from app.api.auth import BROWSER_PREFIXES, register_auth, register_snapshots
    from app.api.context import register_context
    from app.api.forms import FormRequest
    from app.api.json import StrictJSON
    from app.api.openapi import ERROR_MODEL, SECURITY_SCHEMES, DescribedAPI
    from app.api.problems import register_error_handlers, validation_problem
    from app.api.sweeping import register_sweeps
    from app.api.throttle import register_throttle
    from app.cli import register_commands
    from app.frontend import register_pages

    app = DescribedAPI(
        "facedex",
        info=Info(title="Facedex", version=VERSION, description="Self-hosted face recognition."),
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=ERROR_MODEL,
        validation_error_callback=validation_problem,
        doc_prefix="/docs",
        static_folder=None,
    )
    app.json = StrictJSON(app)
    app.request_class = FormRequest
    app.config["MAX_CONTENT_LENGTH"] = _MAX_JSON_BYTES  # routes that take pictures raise it for themselves
    app.extensions[_EXTENSION] = built = build_services(settings)
    register_context(app, settings)
    register_auth(app, built.gate)
    register_throttle(app)
    register_snapshots(app, built.keeper)
    register_sweeps(app, *built.sweeps)
    register_error_handlers(app)
    galleries = (domains, persons, faces, thumbnails, references, rejections, duplicates, outliers, error_rates)
    for module in (
        recognize,
        detect,
        embeddings,
        verify,
        verify_person,
        *galleries,
        gallery,
        imports,
        jobs,
        sessions,
        streams,
        keys,
        audit,
        operations,
        health,
    ):
        app.register_api(module.bp)
    app.add_url_rule("/openapi.json", view_func=_openapi_json)
    open_to_every_key(app, BROWSER_PREFIXES)
    register_pages(app)
    register_commands(app)
    return app


def _openapi_json() -> ResponseReturnValue:
    """The API's description, generated from the code."""
    return jsonify(current_app.api_doc)  # type: ignore[attr-defined]
