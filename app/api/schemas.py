"""What the API takes and answers, as pydantic models: the source of `/openapi.json`."""

from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.db.models import MAX_METADATA_BYTES
from app.enrolment.attributes import MAX_METADATA_DEPTH, parse_moment

Count = Annotated[int, Field(ge=0)]


def _moment(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("is not a moment in ISO 8601, as text")
    return parse_moment(value)


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "ISO 8601 with a zone"}),
]
Metadata = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": True,
            "description": f"at most {MAX_METADATA_BYTES} bytes as JSON text, nested at most {MAX_METADATA_DEPTH} deep",
        }
    ),
]


class Input(BaseModel):
    """What a client sends: nothing unknown, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # flask_openapi3 asks for it at each request, and making it anew takes longer than all the rest of a view.
        if args or kwargs:
            return super().model_json_schema(*args, **kwargs)
        return cls._json_schema_once()

    @classmethod
    @cache
    def _json_schema_once(cls) -> dict[str, Any]:
        return super().model_json_schema()


class FieldError(BaseModel):
    """What is wrong with one parameter."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details; `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[FieldError] | None = Field(None, description="of invalid_parameters: one entry per field")


class DomainPath(Input):
    """A domain in the path."""

    domain: str = Field(description="the domain's name, or its id where the name cannot stand in a path")


class PersonPath(DomainPath):
    """A person in the path."""

    label: str = Field(
        description="the person's label, or the external id, or the id where neither can stand in a path"
    )


class FacePath(PersonPath):
    """An enrolled face in the path."""

    face_id: str = Field(description="the face's id")


class PageQuery(Input):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=500, description="most items to return")
    cursor: str | None = Field(None, max_length=2000, description="`next_cursor` of the page before")


class PersonListQuery(PageQuery):
    """Which persons of a domain."""

    q: str | None = Field(
        None,
        max_length=200,
        description="text that label, display name or external id contain, in any case, with accents or without",
    )
    external_id: str | None = Field(None, max_length=200, description="only the person with this external id")


class GalleryQuery(Input):
    """What a reader of a gallery's changes has."""

    since: str | None = Field(None, max_length=100, description="`version` of the page before; without it, everything")
    limit: int = Field(1000, ge=1, le=5000, description="persons of one page, at most")


class NewDomain(Input):
    """A domain to create."""

    name: str = Field(description="any text of up to 200 characters")


class NewPerson(Input):
    """A person to create."""

    label: str = Field(description="unique in the domain; any text of up to 200 characters")
    display_name: str | None = Field(None, description="the name to show; the label where it is not given")
    external_id: str | None = Field(None, description="what another system calls the person; unique in the domain")
    valid_from: Moment | None = Field(None, description="recognition knows the person from then on; null: always has")
    valid_until: Moment | None = Field(None, description="and until then, not one second longer; null: for ever")
    metadata: Metadata | None = Field(None, description="what else is to be kept of the person")


class PersonUpdate(Input):
    """What to change of a person; a key that is left out stays."""

    label: str | None = None
    display_name: str | None = Field(None, description="null shows the label again")
    external_id: str | None = Field(None, description="null takes it away")
    valid_from: Moment | None = Field(None, description="null: no limit")
    valid_until: Moment | None = Field(None, description="null: no limit")
    metadata: Metadata | None = Field(None, description="in place of all metadata so far; null: none")


class RecognizeParameters(Input):
    """Parameters of a recognition request, from the form, the query or the JSON body."""

    domain: str = Field(description="name or id of the domain to search")
    top_k: int = Field(5, ge=1, le=100, description="candidates to list per face")
    threshold: float | None = Field(
        None, gt=0, le=2, description="largest cosine distance of a match; the model pack's where it is not given"
    )


class RecognizeQuery(Input):
    """The same parameters in the query: the only place for them beside a raw body. Form and JSON go before it."""

    domain: str | None = Field(None, description="name or id of the domain to search; needed, here or in the body")
    top_k: int | None = Field(None, ge=1, le=100, description="candidates to list per face; default 5")
    threshold: float | None = Field(None, gt=0, le=2, description="largest cosine distance of a match")


class Coordinates(BaseModel):
    """A rectangle in pixels of the uploaded picture as a viewer shows it."""

    x: int
    y: int
    w: int
    h: int


class RecognizedPerson(BaseModel):
    """A face that was named."""

    name: str
    face_coordinates: Coordinates


class MatchMetrics(BaseModel):
    """How sure a match is."""

    confidence_percentage: float = Field(
        description="calibrated probability of being the same person, 50 at the threshold"
    )
    occurrences: int = Field(description="templates of the person within the threshold")
    min_distance: float = Field(description="cosine distance of the nearest template")
    weighted_score: float = Field(description="confidence at the mean distance of those templates")


class DetectedMatch(BaseModel):
    """A person within the threshold of some face."""

    person_name: str
    metrics: MatchMetrics


class BestMatch(BaseModel):
    """The nearest match of the picture."""

    person_name: str
    distance: float
    confidence: float


class CandidatePerson(BaseModel):
    """Who a candidate is."""

    id: str | None
    label: str
    name: str


class CandidateOut(BaseModel):
    """One person of the gallery compared with one face."""

    person: CandidatePerson
    distance: float
    similarity: float
    confidence: float


class FaceOut(BaseModel):
    """One face of the picture."""

    box: Coordinates
    detection_score: float
    decision: Literal["match", "ambiguous", "unknown"]
    candidates: list[CandidateOut]


class ImageSize(BaseModel):
    """Size in pixels as a viewer shows it."""

    width: int
    height: int


class RecognitionAnswer(BaseModel):
    """The answer to a recognition request."""

    status: Literal["success"]
    recognized_persons: list[RecognizedPerson]
    all_detected_matches: list[DetectedMatch]
    best_match: BestMatch | None
    mode: Literal["pgvector", "pkl"] = Field(description="the service that answered")
    elapsed_time: float = Field(description="seconds")
    faces: list[FaceOut]
    image: ImageSize
    domain: str
    model: str
    threshold: float
    request_id: str
    timings_ms: dict[str, float] = Field(description="by stage: decode, detect, embed, search; or cache, search")
    fallback_reason: str | None = Field(
        None,
        description="only where pkl answered in place of pgvector: not_migrated or database_unavailable",
    )


class DomainModel(BaseModel):
    """Whose embeddings a domain holds."""

    name: str
    contract: str
    dimension: int


class DomainOut(BaseModel):
    """A domain in a list."""

    id: str
    name: str
    embeddings: int
    model: DomainModel
    created_at: str


class IndexOut(BaseModel):
    """A domain's HNSW index."""

    name: str
    state: Literal["valid", "invalid", "missing"]
    size_bytes: int
    table_bytes: int
    rows: int = Field(description="templates in the partition, counted")
    search: Literal["exact", "hnsw"] = Field(description="the way a search begins")


class MigrationOut(BaseModel):
    """A dataset on its way into a domain."""

    dataset: str = Field(description="name of its file")
    mode: Literal["copy", "reembed"]
    state: Literal["running", "finished", "failed", "interrupted"] = Field(
        description="interrupted: its process is gone; unless finished, run the command again"
    )
    rows: int | None
    rows_done: int = Field(description="rows that are settled, migrated or skipped")
    migrated: int = Field(description="rows that became templates")
    skipped: dict[str, int] = Field(description="rows that did not, by reason")
    seconds: dict[str, float] = Field(description="by stage, over all attempts")
    error: str | None = Field(description="code of the error that ended the last attempt")
    started_at: str
    updated_at: str
    finished_at: str | None


class PhotoCounts(BaseModel):
    """Reference photos by state."""

    waiting: Count
    extracted: Count
    failed: Count


class LicenceOut(BaseModel):
    """On what terms a model pack may be used."""

    name: str
    non_commercial: bool


class DomainReport(DomainOut):
    """A domain's status report."""

    persons: int
    reference_photos: PhotoCounts
    index: IndexOut
    complete: bool = Field(description="false until the first migration into it has finished; PKL answers until then")
    migrated_share: float = Field(ge=0, le=1, description="how much of its gallery is in the database; 1 when complete")
    migration: MigrationOut | None = Field(description="the last migration into it")
    licence: LicenceOut | None = Field(description="of its model pack; null where that is not installed")


class DomainPage(BaseModel):
    """A page of domains."""

    items: list[DomainOut]
    next_cursor: str | None


class PersonOut(BaseModel):
    """A person."""

    id: str
    label: str
    display_name: str
    external_id: str | None
    valid_from: str | None = Field(description="in UTC")
    valid_until: str | None = Field(description="in UTC")
    valid: bool = Field(description="whether recognition may name the person now")
    metadata: dict[str, Any]
    faces: int
    reference_photos: PhotoCounts
    created_at: str
    updated_at: str


TemplateQuality = Literal["good", "fair", "poor", "unknown"]


class ListedPerson(PersonOut):
    """A person in a list."""

    quality: TemplateQuality | None = Field(description="of the best face; null where there is none")
    has_image: bool = Field(description="whether a picture of a face was kept: then there is a thumbnail")


class PersonPage(BaseModel):
    """A page of persons."""

    items: list[ListedPerson]
    total: int | None = Field(description="persons on all pages together; null on pages behind the first")
    next_cursor: str | None


class EnrolledFace(BaseModel):
    """A stored template; the vector itself is never shown."""

    id: str
    box: Coordinates
    detection_score: float
    sharpness: float
    image_sha256: str | None = Field(description="of the file; null for a template whose picture was never seen")
    has_image: bool = Field(description="whether the picture was kept (STORE_IMAGES): then there is a thumbnail")
    quality: TemplateQuality = Field(
        description="by what is asked of new faces: poor is less, good twice as much; unknown where it was not measured"
    )
    created_at: str


class FacePage(BaseModel):
    """A page of enrolled faces."""

    items: list[EnrolledFace]
    next_cursor: str | None


class ConflictWarning(BaseModel):
    """A new template is near to somebody else; it was enrolled all the same."""

    code: Literal["closer_to_other", "resembles_other"] = Field(
        description="closer_to_other: nearer to that person than to the templates of its own;"
        " resembles_other: within the model pack's threshold of that person"
    )
    person: CandidatePerson
    distance: float = Field(description="cosine distance to that person's nearest template")


class FileResult(BaseModel):
    """What became of one uploaded file."""

    file: str
    status: Literal["enrolled", "rejected", "failed"] = Field(
        description="rejected: sending it again changes nothing; failed: the service's fault, send it again"
    )
    code: str | None = Field(
        None, description="why not: no_face, several_faces, face_too_small, face_blurred, duplicate, …"
    )
    detail: str | None = None
    face: EnrolledFace | None = None
    warnings: list[ConflictWarning] | None = Field(None, description="where it was enrolled")


class EnrolmentAnswer(BaseModel):
    """The answer to an upload of faces, in the order of the files."""

    person: PersonOut | None
    enrolled: int
    rejected: int
    failed: int
    results: list[FileResult]
    request_id: str


class EnrolmentProblem(Problem):
    """Why none of the files was enrolled, with each file's own result."""

    person: PersonOut | None
    enrolled: int
    rejected: int
    failed: int
    results: list[FileResult]


class Live(BaseModel):
    """This process answers."""

    status: Literal["ok"]


class Check(BaseModel):
    """One part of the service."""

    ok: bool
    problem: str | None = None


class DatabaseCheck(Check):
    """The database."""

    disabled: bool | None = Field(None, description="VECTOR_DB_ENABLED=false")


class WorkerCheck(BaseModel):
    """One worker of the pool."""

    name: str
    model: str
    state: Literal["loading", "idle", "busy", "failed"]
    lane: Literal["ordinary", "background"] | None = Field(description="of the job that it works on")


class PoolCheck(Check):
    """The worker pool: ok where a worker has the default model loaded."""

    model: str | None = None
    contract: str | None = None
    workers: list[WorkerCheck] | None = None
    queue_length: int | None = Field(None, description="ordinary jobs that wait for a worker")
    background_queue_length: int | None = Field(None, description="jobs in the background that wait for a worker")


class ModelCheck(Check):
    """The chosen model pack."""

    name: str | None = None
    contract: str | None = None


class DatasetsCheck(Check):
    """The datasets that take the database's place; missing where there are none."""

    domains: int | None = None
    usable: int | None = None
    with_problems: int | None = None


class Checks(BaseModel):
    """The parts of the service."""

    database: DatabaseCheck
    pool: PoolCheck
    model: ModelCheck
    datasets: DatasetsCheck | None = None


class Ready(BaseModel):
    """Whether requests can be answered, and if not, why."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: Checks
    reasons: list[str]
    request_id: str


class RemnantOut(BaseModel):
    """Where something may still be."""

    place: str
    why: str


class Erased(BaseModel):
    """The receipt of an erasure."""

    deleted: str = Field(description="the person's id, or the domain's name")
    embeddings: int = Field(description="templates that were removed")
    receipt: str = Field(description="the receipt's id, which the audit names too")
    person_id: str | None = Field(description="null where a domain was deleted, or a dataset alone knew the person")
    domain: str
    erased_at: str
    requested_by: str
    request_id: str | None
    state: Literal["finished", "unfinished"]
    counts: dict[str, int] = Field(description="what was deleted, by place")
    unfinished: list[RemnantOut] = Field(description="places that could not be seen to; they are tried again")
    remains: list[RemnantOut] = Field(description="where else something may be")


class DomainDeletion(Input):
    """How to delete a domain."""

    dataset: bool = Field(
        False, description="delete its dataset under storage/pkl as well, which else goes on answering"
    )
