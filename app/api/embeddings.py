"""`POST /v1/embeddings` and `/v1/embeddings/batch`: the faces of pictures as vectors."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from flask import g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.batch import Batch, json_answer, streamed_answer
from app.api.caller import hang_up_test
from app.api.dump import dump_request
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.picture_schemas import (
    BatchAnswer,
    BatchParameters,
    BatchProblem,
    EmbeddingAnswer,
    EmbeddingParameters,
)
from app.api.pictures import parse_probe, parse_uploads
from app.api.problems import validated
from app.api.wiring import services
from app.deadline import Deadline
from app.embedder.answer import embeddings_to_json
from app.embedder.files import read_picture
from app.errors import NoFaceFound, VectorsNotAllowed
from app.keys.principal import Principal, Scope
from app.vision.faces import Analysis, Embed

bp = APIBlueprint(
    "embeddings",
    __name__,
    url_prefix="/v1/embeddings",
    abp_tags=[Tag(name="pictures")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)

NDJSON: Final = "application/x-ndjson"
_FIELDS: Final[dict[str, Any]] = {
    "faces": {"type": "string", "enum": ["all", "largest"], "default": "all"},
    "vectors": {"type": "boolean"},
    "model": {"type": "string"},
}


@bp.post("", responses={200: EmbeddingAnswer}, openapi_extensions=picture_body(_FIELDS))
@access(Scope.EMBED)
def embeddings(query: EmbeddingParameters) -> ViewReturn:
    """Find and embed the faces of one picture: all of them, or the largest only.

    A picture without faces is a success with an empty list, unless the largest was asked for.
    """
    max_bytes = services().settings.max_upload_bytes
    probe = parse_probe(request, query.model_dump(exclude_unset=True), max_bytes=max_bytes)
    analyze = _analysis(validated(EmbeddingParameters, probe.parameters))
    return embeddings_to_json(analyze(probe.image, g.deadline)) | dump_request()


@bp.post(
    "/batch",
    responses={200: BatchAnswer, 422: BatchProblem},
    openapi_extensions=picture_body(_FIELDS | {"stream": {"type": "boolean"}}, many=True),
)
@access(Scope.EMBED)
def embed_batch(query: BatchParameters) -> ViewReturn:
    """The same for many pictures, each answered on its own.

    200 where at least one picture succeeded; otherwise the first one's error, with the results of all. Streamed
    (`application/x-ndjson`): always 200, one line per picture as it finishes, then a summary.
    """
    with ExitStack() as held:
        held.enter_context(services().long_requests.place(g.client.id))
        batch, stream = _parse_batch(query)
        if not stream:
            return json_answer(batch)
        response = streamed_answer(batch)
        response.call_on_close(held.pop_all().close)
        return response


def _parse_batch(query: BatchParameters) -> tuple[Batch, bool]:
    """What to do, and whether its results are streamed."""
    settings = services().settings
    uploads = parse_uploads(
        request,
        max_bytes=settings.max_upload_bytes,
        max_files=settings.max_request_files,
        max_request_bytes=settings.max_request_bytes,
    )
    parameters = validated(BatchParameters, query.model_dump(exclude_unset=True) | request.form.to_dict())
    analyze = _analysis(parameters)

    def analyze_file(data: bytes, deadline: Deadline) -> Analysis:
        return analyze(read_picture(data, max_bytes=settings.max_upload_bytes), deadline)

    batch = Batch(
        names=[upload.name for upload in uploads],
        pictures={index: upload.data for index, upload in enumerate(uploads)},
        analyze=analyze_file,
        settings=settings,
        hung_up=hang_up_test(request.environ),
        request_id=g.request_id,
        started_s=g.started_s,
    )
    return batch, _wants_stream(parameters.stream)


def wants_vectors(asked: bool | None, client: Principal) -> bool:
    """Whether an answer holds embeddings; they are left out, unless asked for, where the key may not see them.

    Raises:
        VectorsNotAllowed: they were asked for, and the key may not see them.
    """
    if asked and not client.may_see_vectors:
        raise VectorsNotAllowed("This API key may not see embeddings; send vectors=false for the faces alone.")
    return client.may_see_vectors if asked is None else asked


def _analysis(parameters: EmbeddingParameters) -> Callable[[bytes, Deadline], Analysis]:
    """From a picture's bytes to the faces that are answered; needs no request any more, so that threads can use it."""
    embedder, request_id, client = services().embedder, g.request_id, g.client
    largest_only = parameters.faces == "largest"
    embed: Embed = parameters.faces if wants_vectors(parameters.vectors, client) else "none"

    def analyze(image: bytes, deadline: Deadline) -> Analysis:
        analysis = embedder.analyze(
            image, deadline=deadline, embed=embed, request_id=request_id, client=client.id, model=parameters.model
        )
        if not largest_only:
            return analysis
        if not analysis.faces:
            raise NoFaceFound("No face was found in the picture.")
        return replace(analysis, faces=analysis.faces[:1])

    return analyze


def _wants_stream(asked: bool | None) -> bool:
    if asked is not None:
        return asked
    return request.accept_mimetypes.best_match(["application/json", NDJSON]) == NDJSON
