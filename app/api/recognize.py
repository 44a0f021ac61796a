"""`POST /recognize`: a photo in, names out."""

import time
from typing import Any

from flask import g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.metrics import ANSWERS, AUDIT_EVENTS, DECISIONS, STAGE_SECONDS
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.pictures import parse_probe
from app.api.problems import validated
from app.api.schemas import RecognitionAnswer, RecognizeParameters, RecognizeQuery
from app.api.wiring import services
from app.keys.principal import Scope
from app.names import clean_name
from app.recognition.answer import build_answer
from app.recognition.events import note_recognition
from app.recognition.service import RecognitionRequest, RecognitionResult

bp = APIBlueprint(
    "recognize", __name__, abp_tags=[Tag(name="recognition")], abp_security=SECURITY, abp_responses=PROBLEM_RESPONSES
)

_BODY: dict[str, Any] = picture_body(
    {
        "domain": {"type": "string", "description": "name or id of the domain to search"},
        "top_k": {"type": "integer", "minimum": 1, "maximum": 100, "default": 5},
        "threshold": {"type": "number", "exclusiveMinimum": 0, "maximum": 2},
    }
)


@bp.post("/recognize", responses={200: RecognitionAnswer}, openapi_extensions=_BODY)
@access(Scope.RECOGNIZE)
def recognize(query: RecognizeQuery) -> ViewReturn:
    """Name every face of one picture from a domain's gallery (1:N).

    The picture is the multipart field `file`, the raw body, or base64 under the JSON key `image`. A picture without faces,
    or with nobody known on it, is a success with empty lists.
    """
    settings = services().settings
    probe = parse_probe(request, query.model_dump(exclude_none=True), max_bytes=settings.max_upload_bytes)
    parameters = validated(RecognizeParameters, probe.parameters)
    result = services().recognition.recognize(
        RecognitionRequest(
            image=probe.image,
            domain=clean_name(parameters.domain, "domain"),
            top_k=parameters.top_k,
            threshold=parameters.threshold,
            deadline=g.deadline,
            request_id=g.request_id,
            client=g.client.id,
        ),
        lambda found: AUDIT_EVENTS.labels(note_recognition(services().audit, found)).inc(),
    )
    _observe(result)
    return build_answer(result, request_id=g.request_id, elapsed_s=time.monotonic() - g.started_s)


def _observe(result: RecognitionResult) -> None:
    ANSWERS.labels(result.mode, result.fallback_reason or "chosen").inc()
    for stage, elapsed_ms in result.timings_ms.items():
        STAGE_SECONDS.labels(stage).observe(elapsed_ms / 1000)
    for face in result.faces:
        DECISIONS.labels(result.mode, face.decision.value).inc()
