"""What detection, embeddings and verification take and answer, as pydantic models: see `schemas.py`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.api.schemas import Coordinates, ImageSize, Input, Problem

ModelName = Annotated[
    str, Field(min_length=1, max_length=64, description="a loaded model pack; default: the pool's own")
]


class DetectParameters(Input):
    """Parameters of a detection."""

    model: ModelName | None = None


class EmbeddingParameters(Input):
    """Parameters of embeddings of one picture."""

    faces: Literal["all", "largest"] = Field("all", description="which faces are answered")
    vectors: bool | None = Field(
        None, description="whether with their embeddings; default: true where the key may see embeddings"
    )
    model: ModelName | None = None


class BatchParameters(EmbeddingParameters):
    """Parameters of embeddings of many pictures."""

    stream: bool | None = Field(
        None,
        description="one JSON line per picture, as it finishes; default: where Accept prefers application/x-ndjson",
    )


class VerifyParameters(Input):
    """Parameters of a comparison."""

    threshold: float | None = Field(
        None, gt=0, le=2, description="largest cosine distance of one person's faces; default: the model pack's"
    )
    model: ModelName | None = None


class DetectedFace(BaseModel):
    """A face as the detector sees it."""

    box: Coordinates
    landmarks: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        description="five points, x and y in pixels; which they are depends on the model, see docs/api.md"
    )
    detection_score: float = Field(description="higher is surer; the scale is the model's own")
    size_px: int = Field(description="shorter side of the box")
    sharpness: float = Field(description="comparable within one model only")


class EmbeddedFace(DetectedFace):
    """A face and its embedding."""

    embedding: list[float] | None = Field(
        None, description="unit length; exact float32 values; absent where vectors were not asked for, or not allowed"
    )


class _PictureAnswer(BaseModel):
    image: ImageSize
    model: str
    timings_ms: dict[str, float] = Field(description="by stage: decode, detect, embed")
    elapsed_time: float = Field(description="seconds")
    request_id: str


class DetectionAnswer(_PictureAnswer):
    """The faces of one picture, largest first."""

    faces: list[DetectedFace]


class EmbeddingAnswer(_PictureAnswer):
    """The faces of one picture, largest first, with their embeddings."""

    faces: list[EmbeddedFace]
    contract: str = Field(description="only embeddings of one contract may be compared")
    dimension: int


class PictureResult(BaseModel):
    """What became of one picture of a batch: with status ok everything from image on, else code and detail."""

    index: int = Field(description="which of the files that were sent, from 0")
    file: str = Field(description="the client's name for it")
    status: Literal["ok", "error"]
    code: str | None = None
    detail: str | None = None
    image: ImageSize | None = None
    faces: list[EmbeddedFace] | None = None
    model: str | None = None
    contract: str | None = None
    dimension: int | None = None
    timings_ms: dict[str, float] | None = None


class BatchSummary(BaseModel):
    """What became of a batch; the last line of a stream, where `summary` is true."""

    succeeded: int
    failed: int
    timings_ms: dict[str, float] = Field(description="by stage, summed over the pictures")
    elapsed_time: float = Field(description="seconds")
    request_id: str


class BatchAnswer(BatchSummary):
    """Every picture's own result, in the order of the files."""

    results: list[PictureResult]


class BatchProblem(Problem):
    """Why no picture succeeded: the first one's error, with each picture's own."""

    succeeded: int
    failed: int
    results: list[PictureResult]
    timings_ms: dict[str, float]
    elapsed_time: float


class ComparedFace(BaseModel):
    """The main face of one of two pictures."""

    box: Coordinates
    detection_score: float


class VerificationAnswer(BaseModel):
    """Whether two pictures show one person."""

    verified: bool = Field(description="the distance is at most the threshold")
    distance: float = Field(description="cosine distance, 0 to 2")
    threshold: float
    confidence: float = Field(description="calibrated probability in percent; 50 at the model pack's own threshold")
    model: str
    contract: str
    face1: ComparedFace
    face2: ComparedFace
    timings_ms: dict[str, float] = Field(description="by stage, summed over both pictures")
    elapsed_time: float = Field(description="seconds")
    request_id: str
