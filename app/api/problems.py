"""Errors as RFC 9457 answers. One table; a test asserts that it covers every error class."""

from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from flask import Flask, Response, abort, g, jsonify
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app import errors
from app.db.session import driver_reason

M = TypeVar("M", bound=BaseModel)

log = structlog.stdlib.get_logger("facedex.api")

# Class → (status, title). A subclass without a line of its own uses its nearest parent's.
PROBLEMS: dict[type[errors.FacedexError], tuple[int, str]] = {
    errors.FacedexError: (500, "Internal error"),
    errors.InvalidRequest: (400, "Invalid request"),
    errors.InvalidName: (422, "Invalid name"),
    errors.EmptyUpload: (400, "No picture"),
    errors.UploadTooLarge: (413, "Upload too large"),
    errors.UnsafePath: (422, "Unsafe path"),
    errors.ImportTooLarge: (413, "Import too large"),
    errors.InvalidArchive: (422, "Not a readable zip"),
    errors.InvalidVector: (400, "Vectors that cannot be compared"),
    errors.InvalidValidity: (422, "Invalid validity"),
    errors.InvalidMetadata: (422, "Invalid metadata"),
    errors.MetadataTooLarge: (422, "Metadata too large"),
    errors.MergeWithItself: (422, "Merge with itself"),
    errors.SamePerson: (422, "Same person"),
    errors.UpgradeRequired: (426, "WebSocket expected"),
    errors.BenchmarkImpossible: (400, "Nothing to measure with"),
    errors.ClientGone: (499, "Client hung up"),  # nginx's status for it, for the log
    errors.ImageError: (422, "Unusable picture"),
    errors.InvalidImage: (422, "Not a readable picture"),
    errors.UnreadableFile: (422, "Unreadable file"),
    errors.UnsupportedImage: (415, "Unsupported picture format"),
    errors.ImageTooLarge: (413, "Too many pixels"),
    errors.ImageQuarantined: (422, "Picture in quarantine"),
    errors.FileNotFound: (404, "No such file"),
    errors.RecognitionError: (422, "Unusable face"),
    errors.NoFaceFound: (422, "No face found"),
    errors.SeveralFaces: (422, "Several faces"),
    errors.FaceTooSmall: (422, "Face too small"),
    errors.FaceBlurred: (422, "Face blurred"),
    errors.InvalidEmbedding: (422, "Unusable embedding"),
    errors.DuplicateFace: (409, "Enrolled already"),
    errors.NotFound: (404, "Not found"),
    errors.DomainNotFound: (404, "No such domain"),
    errors.PersonNotFound: (404, "No such person"),
    errors.PersonErased: (410, "Erased"),
    errors.FaceNotFound: (404, "No such face"),
    errors.RejectionNotFound: (404, "No such rejection"),
    errors.ReferencePhotoNotFound: (404, "No such reference photo"),
    errors.SessionNotFound: (404, "No such session"),
    errors.KeyNotFound: (404, "No such key"),
    errors.JobNotFound: (404, "No such job"),
    errors.Conflict: (409, "Conflict"),
    errors.JobEnded: (409, "Job has ended"),
    errors.JobNotEnded: (409, "Job has not failed"),
    errors.FilesFailed: (409, "Files failed"),
    errors.DomainExists: (409, "Domain exists"),
    errors.DatasetExists: (409, "Dataset of that name"),
    errors.PersonExists: (409, "Person exists"),
    errors.IdempotencyKeyReused: (422, "Idempotency key used before"),
    errors.FaceEnrolled: (409, "Enrolled as this person"),
    errors.TooManyRejections: (409, "Too many rejections"),
    errors.TooManyReferencePhotos: (409, "Too many reference photos"),
    errors.ContractMismatch: (409, "Another model's embeddings"),
    errors.MigrationRunning: (409, "Migration under way"),
    errors.MigrationUnfinished: (409, "Migration unfinished"),
    errors.NothingToResume: (409, "Nothing to resume"),
    errors.NoTemplates: (409, "No enrolled face"),
    errors.SessionEnded: (409, "Session ended"),
    errors.SessionExpired: (410, "Session expired"),
    errors.SessionTakenOver: (409, "Session taken over"),
    errors.TooManySessions: (409, "Too many open sessions"),
    errors.KeyEnded: (409, "Key ended"),
    errors.TooManyKeys: (409, "Too many keys"),
    errors.AccessError: (403, "Access denied"),
    errors.Unauthenticated: (401, "API key needed"),
    errors.ScopeMissing: (403, "Not with this key"),
    errors.KeyNotAllowed: (403, "More than this key has"),
    errors.KeysUnavailable: (503, "Keys cannot be checked"),
    errors.SnapshotBusy: (503, "Snapshot of the keys busy"),
    errors.RateLimited: (429, "Too many requests in a minute"),
    errors.TooManyRequests: (429, "Too many requests at once"),
    errors.TooManyStreams: (429, "Too many streams"),
    errors.OriginNotAllowed: (403, "Origin not allowed"),
    errors.CsrfTokenWrong: (403, "Token of the page needed"),
    errors.VectorsNotAllowed: (403, "Embeddings are not for this key"),
    errors.WrongSessionToken: (401, "Session token needed"),
    errors.NotTheSessionsKey: (403, "Another key's session"),
    errors.SessionKeyEnded: (401, "Key of the session ended"),
    errors.ModelError: (500, "Model pack unusable"),
    errors.UnknownModel: (404, "No such model"),
    errors.InvalidPack: (500, "Model pack damaged"),
    errors.LicenseNotAccepted: (409, "Licence not accepted"),
    errors.DownloadFailed: (502, "Download failed"),
    errors.EmbedderError: (500, "Embedding failed"),
    errors.PoolBusy: (503, "All workers are busy"),
    errors.WorkerCrashed: (500, "Worker crashed"),
    errors.WorkerTimeout: (504, "Deadline passed"),
    errors.ModelUnavailable: (503, "No model loaded"),
    errors.EmbedderUnavailable: (503, "Worker pool unavailable"),
    errors.DatabaseError: (500, "Database error"),
    errors.DatabaseUnavailable: (503, "Database unavailable"),
    errors.DatabaseBusy: (503, "Database busy"),
    errors.DatabaseTimeout: (504, "Database too slow"),
    errors.DatabaseDisabled: (503, "Database switched off"),
    errors.DomainNotMigrated: (503, "Domain not migrated yet"),
    errors.StreamError: (503, "No stream now"),
    errors.StreamsFull: (503, "All streams are taken"),
    errors.StreamsUnavailable: (503, "No streams here"),
    errors.StorageError: (500, "Storage refuses"),
    errors.PictureNotStored: (507, "Picture not kept"),
    errors.CacheUnavailable: (503, "Cache unavailable"),
    errors.DatasetError: (422, "Unusable dataset"),
    errors.DatasetNotFound: (404, "No such dataset"),
    errors.AmbiguousDataset: (409, "Several datasets"),
    errors.InvalidDataset: (422, "Not a readable dataset"),
    errors.UnsafeDataset: (422, "Unsafe dataset"),
    errors.DatasetUnavailable: (503, "Dataset not usable"),
    errors.DatasetTooLarge: (413, "Dataset too large"),
    errors.DatasetNotWritten: (507, "Dataset not written"),
}

_RETRY_AFTER_S = {429: 1, 503: 2}
# How things are, and no fault of the program's: the log needs no traceback of each request that meets them.
_CIRCUMSTANCES = (
    errors.DatabaseDisabled,
    errors.DatabaseUnavailable,
    errors.KeysUnavailable,
    errors.DomainNotMigrated,
    errors.DatasetUnavailable,
    errors.PoolBusy,
)
_MAX_FIELD_ERRORS = 20


def problem_of(error: errors.FacedexError) -> dict[str, Any]:
    """The RFC 9457 members of an error, `status` among them."""
    status, title = next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    return _problem(status, title, error.code, str(error))


def problem_response(error: errors.FacedexError, **extra: Any) -> Response:
    """The HTTP answer to an error; `extra` members are added to its body."""
    return _respond(problem_of(error) | extra)


def register_error_handlers(app: Flask) -> None:
    """Answer every exception of a view with a problem document."""
    app.register_error_handler(errors.FacedexError, _on_facedex_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(ParseException, _on_broken_body)
    app.register_error_handler(Exception, _on_unexpected)


def validated(model: type[M], parameters: dict[str, Any]) -> M:
    """The parameters as their schema; ends the request with `validation_problem` where they do not fit it."""
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        abort(validation_problem(error))


def validation_problem(error: ValidationError) -> Response:
    """The answer to parameters that do not fit their schema; names each, without repeating the values."""
    if any(item["type"] in ("model_type", "dict_type") and not item["loc"] for item in error.errors()):
        detail = "Send a JSON object, with the header Content-Type: application/json."
        return _respond(_problem(400, "Invalid request", "invalid_request", detail))
    fields = [
        {"field": ".".join(str(part) for part in item["loc"]) or "body", "message": item["msg"]}
        for item in error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_FIELD_ERRORS]
    ]
    detail = "; ".join(f"{field['field']}: {field['message']}" for field in fields)
    return _respond(_problem(422, "Invalid parameters", "invalid_parameters", detail) | {"errors": fields})


def _problem(status: int, title: str, code: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:facedex:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": g.get("request_id", ""),
    }


def _respond(problem: dict[str, Any]) -> Response:
    response = jsonify(problem)
    response.status_code = problem["status"]
    response.content_type = "application/problem+json"
    g.problem_code = problem["code"]
    if problem["status"] in _RETRY_AFTER_S:
        response.headers["Retry-After"] = str(_RETRY_AFTER_S[problem["status"]])
    if problem["status"] == 426:
        response.headers["Upgrade"] = "websocket"
    if problem["status"] == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _on_facedex_error(error: errors.FacedexError) -> Response:
    response = problem_response(error)
    if isinstance(error, _CIRCUMSTANCES):
        reason = driver_reason(error)
        log.warning(f"[API] {error.code}: {error}" + (f" ({reason})" if reason else ""))
    elif response.status_code >= 500:
        log.error(f"[API] {error.code}: {error}", exc_info=error)
    return response


def _on_http_exception(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return problem_response(errors.UploadTooLarge("The request is larger than this service accepts."))
    if error.response is not None and error.code is None:  # `abort(response)`: it is the answer already
        return error.response  # type: ignore[return-value]
    status = error.code or 500
    phrase = HTTPStatus(status).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    response = _respond(_problem(status, phrase, code, error.description or phrase))
    # Allow (405), Location (308) and the like belong to the answer.
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _on_broken_body(_error: ParseException) -> Response:
    """Gunicorn reads the body while the view does: a chunk whose size is none, say."""
    return problem_response(errors.InvalidRequest("The body of the request is broken."))


def _on_unexpected(error: Exception) -> Response:
    log.error("[API] Unexpected exception", exc_info=error)
    return _respond(_problem(500, "Internal error", "internal_error", "An unexpected error; the log has the details."))
