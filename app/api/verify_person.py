"""`POST /v1/domains/{domain}/persons/{label}/verify`: whether a picture shows that person."""

from dataclasses import asdict
from typing import Any

from flask import g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_request
from app.api.metrics import AUDIT_EVENTS, VERIFICATIONS
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.pictures import parse_probe
from app.api.problems import validated
from app.api.schemas import PersonPath
from app.api.session_schemas import PersonVerificationAnswer, PersonVerifyParameters
from app.api.wiring import services
from app.embedder.answer import timings_to_json
from app.keys.principal import Scope
from app.verification.events import note_verification
from app.verification.person import PersonVerification, PersonVerificationRequest

bp = APIBlueprint(
    "verify_person",
    __name__,
    abp_tags=[Tag(name="verification")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)

_BODY: dict[str, Any] = picture_body({"threshold": {"type": "number", "exclusiveMinimum": 0, "maximum": 2}})


@bp.post(
    "/v1/domains/<domain>/persons/<label>/verify",
    responses={200: PersonVerificationAnswer},
    openapi_extensions=_BODY,
)
@access(Scope.VERIFY)
def verify_person(path: PersonPath, query: PersonVerifyParameters) -> ViewReturn:
    """Compare the main face of one picture with one person's enrolled faces (1:1). The picture comes as to /recognize.

    Nobody else is looked at. A person who is not valid now, or for whom this face was rejected, is not verified.
    """
    max_bytes = services().settings.max_upload_bytes
    probe = parse_probe(request, query.model_dump(exclude_unset=True), max_bytes=max_bytes)
    parameters = validated(PersonVerifyParameters, probe.parameters)
    result = services().person_verification.verify(
        PersonVerificationRequest(
            image=probe.image,
            domain=path.domain,
            label=path.label,
            threshold=parameters.threshold,
            deadline=g.deadline,
            request_id=g.request_id,
            client=g.client.id,
        )
    )
    VERIFICATIONS.labels("verified" if result.verified else "not_verified").inc()
    AUDIT_EVENTS.labels(note_verification(services().audit, result)).inc()
    return _dump(result) | dump_request()


def _dump(result: PersonVerification) -> dict[str, Any]:
    claimed = result.claimed
    return {
        "verified": result.verified,
        "reason": result.refusal,
        "person": {"id": str(claimed.person_id), "label": claimed.label, "name": claimed.display_name},
        "distance": round(result.distance, 6),
        "threshold": result.threshold,
        "confidence": round(result.confidence, 2),
        "face": {"box": asdict(result.face.box), "detection_score": round(result.face.score, 4)},
        "domain": claimed.domain,
        "model": result.model,
        "timings_ms": timings_to_json(result.timings_ms),
    }
