"""The one place where the web application is put together."""

from dataclasses import dataclass
from typing import Final

from flask import current_app, jsonify
from flask.typing import ResponseReturnValue
from flask_openapi3 import Info, OpenAPI

from app.api.long_requests import LongRequests
from app.config import Settings
from app.datasets.store import DatasetStore
from app.db.session import Database
from app.embedder.client import EmbedderClient
from app.enrolment.domains import DomainService
from app.enrolment.faces import FaceService
from app.enrolment.persons import PersonService
from app.recognition.breaker import CircuitBreaker
from app.recognition.controller import RecognitionController
from app.recognition.pgvector import PgvectorRecognition
from app.recognition.pkl import PklRecognition
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
    packs: PackStore
    datasets: DatasetStore
    domains: DomainService
    persons: PersonService
    faces: FaceService
    recognition: RecognitionController
    verification: VerificationService
    long_requests: LongRequests

    def active_pack(self) -> InstalledPack:
        """The chosen model pack.

        Raises:
            UnknownModel, InvalidPack: as `PackStore.active`.
        """
        return self.packs.active(self.settings.face_model)


def build_services(settings: Settings) -> Services:
    """The services of one process; they connect when they are first used."""
    database = Database(settings)
    embedder = EmbedderClient(settings.embedder_address)
    packs = PackStore(settings.models_dir)
    datasets = DatasetStore(settings, packs)
    return Services(
        settings=settings,
        database=database,
        embedder=embedder,
        packs=packs,
        datasets=datasets,
        domains=DomainService(settings, database, packs),
        persons=PersonService(database),
        faces=FaceService(settings, database, embedder, packs),
        recognition=_recognition(settings, database, datasets, embedder, packs),
        verification=VerificationService(embedder, packs),
        long_requests=LongRequests(settings.web_threads),
    )


def _recognition(
    settings: Settings, database: Database, datasets: DatasetStore, embedder: EmbedderClient, packs: PackStore
) -> RecognitionController:
    pkl = PklRecognition(datasets)
    if not settings.vector_db_enabled:
        return RecognitionController(pkl, None, embedder, packs)
    return RecognitionController(PgvectorRecognition(settings, database, CircuitBreaker()), pkl, embedder, packs)


def services() -> Services:
    """The services of the current application."""
    found: Services = current_app.extensions[_EXTENSION]
    return found


def build_app(settings: Settings) -> OpenAPI:
    """The Flask application with its routes, commands and error answers."""
    from app.api import detect, domains, embeddings, faces, health, persons, recognize, verify
    from app.api.auth import register_auth
    from app.api.context import register_context
    from app.api.json import StrictJSON
    from app.api.openapi import ERROR_MODEL, SECURITY_SCHEMES
    from app.api.problems import register_error_handlers, validation_problem
    from app.cli import register_commands

    app = OpenAPI(
        "facedex",
        info=Info(title="Facedex", version=VERSION, description="Self-hosted face recognition."),
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=ERROR_MODEL,
        validation_error_callback=validation_problem,
        doc_prefix="/docs",
        static_folder=None,
    )
    app.json = StrictJSON(app)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_JSON_BYTES  # routes that take pictures raise it for themselves
    app.extensions[_EXTENSION] = build_services(settings)
    register_context(app, settings)
    register_auth(app, settings.admin_key_file)
    register_error_handlers(app)
    for module in (recognize, detect, embeddings, verify, domains, persons, faces, health):
        app.register_api(module.bp)
    app.add_url_rule("/openapi.json", view_func=_openapi_json)
    register_commands(app)
    return app


def _openapi_json() -> ResponseReturnValue:
    """The API's description, generated from the code."""
    return jsonify(current_app.api_doc)  # type: ignore[attr-defined]
