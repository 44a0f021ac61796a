"""What the API takes and answers about reference photos."""

from typing import Literal

from pydantic import BaseModel, Field

from app.api.schemas import CandidatePerson, Count, Input, PersonOut, PersonPath


class PhotoPath(PersonPath):
    """A reference photo in the path."""

    photo_id: str = Field(description="the photo's id")


class PreloadQuery(Input):
    """Which photos to extract now."""

    failed: bool = Field(False, description="once more also those in which nothing was found")


class PhotoError(BaseModel):
    """Why the last attempt has failed."""

    code: str = Field(description="no_face, several_faces, face_too_small, invalid_image, …; as of the problems")
    detail: str


class ReferencePhotoOut(BaseModel):
    """A reference photo; the picture itself is never shown."""

    id: str
    state: Literal["waiting", "extracted", "failed"]
    image_sha256: str
    strategy: str | None = Field(description="the way of looking that has found the face")
    face_id: str | None = Field(description="the face that was made of it; null where there is none, or none any more")
    warnings: list[str] = Field(
        description="face_too_small, face_blurred: an upload of a face would be refused for it; duplicate: the person had the"
        " photo as a face already; closer_to_other, resembles_other: as of an enrolment"
    )
    error: PhotoError | None = Field(description="why the last attempt has failed; one that waits is tried again")
    job_id: str | None = Field(description="the job that extracts it, or did; null where that is gone")
    attempts: int
    created_at: str
    tried_at: str | None


class ReferencePhotoPage(BaseModel):
    """A page of reference photos."""

    items: list[ReferencePhotoOut]
    next_cursor: str | None


class PhotosAnswer(BaseModel):
    """Photos that are kept, each picture once, in the order in which they were sent."""

    person: CandidatePerson
    photos: list[ReferencePhotoOut]
    job_id: str | None = Field(description="see /v1/jobs/{job_id}; null where there is nothing to be done")
    request_id: str


class NewPersonOut(PersonOut):
    """A new person, with the photos that came along."""

    photos: list[ReferencePhotoOut] | None = Field(None, description="only where photos came along")
    job_id: str | None = Field(None, description="the job that extracts them")


class PreloadAnswer(BaseModel):
    """What became of the photos that waited."""

    status: Literal["nothing_waiting", "done", "unfinished"] = Field(
        description="unfinished: some wait still; the reason stands with them"
    )
    person: CandidatePerson
    waiting: Count
    extracted: Count
    failed: Count
    photos: list[ReferencePhotoOut]
    request_id: str
