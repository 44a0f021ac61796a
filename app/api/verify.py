"""`POST /v1/verify`: whether two pictures show one person."""

from dataclasses import asdict
from typing import Any, Final

from flask import g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_request
from app.api.metrics import AUDIT_EVENTS, VERIFICATIONS
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, pair_body
from app.api.picture_schemas import VerificationAnswer, VerifyParameters
from app.api.pictures import Upload, parse_pair
from app.api.problems import validated
from app.api.wiring import services
from app.embedder.answer import timings_to_json
from app.keys.principal import Scope
from app.verification.service import Picture, VerificationRequest, VerificationResult
from app.vision.faces import Face

bp = APIBlueprint(
    "verify", __name__, abp_tags=[Tag(name="verification")], abp_security=SECURITY, abp_responses=PROBLEM_RESPONSES
)

_FIELDS: Final[dict[str, Any]] = {
    "threshold": {"type": "number", "exclusiveMinimum": 0, "maximum": 2},
    "model": {"type": "string"},
}


@bp.post("/v1/verify", responses={200: VerificationAnswer}, openapi_extensions=pair_body(_FIELDS))
@access(Scope.VERIFY)
def verify(query: VerifyParameters) -> ViewReturn:
    """Compare the main faces of two pictures (1:1): `file1` and `file2`, or base64 under `image1` and `image2`.

    The main face is the only one, or the one that is clearly the largest. Nothing is searched or kept.
    """
    pair = parse_pair(request, query.model_dump(exclude_unset=True), max_bytes=services().settings.max_upload_bytes)
    parameters = validated(VerifyParameters, pair.parameters)
    result = services().verification.verify(
        VerificationRequest(
            first=_picture(pair.first),
            second=_picture(pair.second),
            threshold=parameters.threshold,
            model=parameters.model,
            deadline=g.deadline,
            request_id=g.request_id,
            client=g.client.id,
        )
    )
    VERIFICATIONS.labels("verified" if result.comparison.verified else "not_verified").inc()
    noted = services().audit.note(
        "verification.answered",
        {
            "verified": result.comparison.verified,
            "distance": round(result.comparison.distance, 6),
            "threshold": result.comparison.threshold,
            "model": result.model,
        },
    )
    AUDIT_EVENTS.labels(noted).inc()
    return _dump(result) | dump_request()


def _picture(upload: Upload) -> Picture:
    return Picture(upload.name, upload.data)


def _dump(result: VerificationResult) -> dict[str, Any]:
    return {
        "verified": result.comparison.verified,
        "distance": round(result.comparison.distance, 6),
        "threshold": result.comparison.threshold,
        "confidence": round(result.comparison.confidence, 2),
        "model": result.model,
        "contract": result.contract,
        "face1": _dump_face(result.first),
        "face2": _dump_face(result.second),
        "timings_ms": timings_to_json(result.timings_ms),
    }


def _dump_face(face: Face) -> dict[str, Any]:
    return {"box": asdict(face.box), "detection_score": round(face.score, 4)}
