"""Sends each recognition request to the one service that the configuration chose."""

from collections.abc import Mapping

import structlog

from app.config import Settings
from app.recognition.service import RecognitionRequest, RecognitionResult, RecognitionService

log = structlog.stdlib.get_logger("facedex.recognition")


class RecognitionController:
    """Holds the services by mode and uses the configured one."""

    def __init__(self, settings: Settings, services: Mapping[str, RecognitionService]) -> None:
        self._service = services["pgvector" if settings.vector_db_enabled else "pkl"]

    def recognize(self, request: RecognitionRequest) -> RecognitionResult:
        """As `RecognitionService.recognize`, logged in the lines that operators search for."""
        mode = self._service.mode
        log.info(f"[{mode.upper()}] Using {mode} for recognition, domain={request.domain}")
        return self._service.recognize(request)
