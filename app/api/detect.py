"""`POST /v1/detect`: where the faces of a picture are."""

from flask import g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_request
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.picture_schemas import DetectionAnswer, DetectParameters
from app.api.pictures import parse_probe
from app.api.problems import validated
from app.api.wiring import services
from app.embedder.answer import detection_to_json
from app.keys.principal import Scope

bp = APIBlueprint(
    "detect", __name__, abp_tags=[Tag(name="pictures")], abp_security=SECURITY, abp_responses=PROBLEM_RESPONSES
)


@bp.post("/v1/detect", responses={200: DetectionAnswer}, openapi_extensions=picture_body({"model": {"type": "string"}}))
@access(Scope.EMBED, Scope.RECOGNIZE, Scope.ENROL, Scope.VERIFY)
def detect(query: DetectParameters) -> ViewReturn:
    """Find the faces of one picture; nothing is embedded, searched or kept."""
    probe = parse_probe(request, query.model_dump(exclude_unset=True), max_bytes=services().settings.max_upload_bytes)
    parameters = validated(DetectParameters, probe.parameters)
    analysis = services().embedder.analyze(
        probe.image,
        deadline=g.deadline,
        embed="none",
        request_id=g.request_id,
        client=g.client.id,
        model=parameters.model,
    )
    return detection_to_json(analysis) | dump_request()
