"""Jobs as the API shows them."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from app.api.schemas import Input, PageQuery

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FileState = Literal["waiting", "enrolled", "rejected", "failed"]


class JobPath(Input):
    """A job in the path."""

    job_id: str = Field(description="the job's id")


class JobListQuery(PageQuery):
    """Which jobs."""

    domain: str | None = Field(None, max_length=200, description="only those of this domain, by name or id")
    state: JobState | None = Field(None, description="only those in this state")
    kind: str | None = Field(None, pattern=r"^[a-z_]{1,40}$", description="only those of this kind, e.g. import")


class JobFilesQuery(PageQuery):
    """Which files of a bulk enrolment."""

    state: FileState | None = Field(None, description="only those in this state")


class ImportQuery(Input):
    """How the folders of an import are to be taken."""

    skip: int | None = Field(
        None,
        ge=0,
        le=10,
        description="folders around the persons' own; without it one, where all files lie in folders of one folder, else none",
    )


class JobError(BaseModel):
    """Why a job or a file failed."""

    code: str
    detail: str


class FileCounts(BaseModel):
    """How many files are in which state."""

    waiting: int
    enrolled: int
    rejected: int
    failed: int


class JobOut(BaseModel):
    """A job. `error` of one that is queued is why its last attempt failed."""

    id: UUID
    kind: str
    domain: str | None
    person_id: UUID | None
    state: JobState
    attempts: int
    done: int
    total: int | None
    files: FileCounts | None = Field(description="of a bulk enrolment; null in lists")
    result: dict[str, Any] | None
    error: JobError | None
    created_by: str = Field(description="the id of an API key, `admin` or `cli`")
    created_at: str
    started_at: str | None
    finished_at: str | None


class JobPage(BaseModel):
    """Jobs, the latest first."""

    items: list[JobOut]
    next_cursor: str | None


class JobFileOut(BaseModel):
    """A file of a bulk enrolment and what became of it."""

    position: int
    file: str
    label: str | None = Field(description="null where nobody can tell whose it is")
    state: FileState
    face_id: UUID | None
    error: JobError | None


class JobFilePage(BaseModel):
    """Files of a bulk enrolment, in its order."""

    items: list[JobFileOut]
    next_cursor: str | None
