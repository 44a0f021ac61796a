"""`/v1/jobs`."""

from typing import Any

from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.idempotency import idempotent
from app.api.job_schemas import JobFilePage, JobFilesQuery, JobListQuery, JobOut, JobPage, JobPath
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.wiring import services
from app.enrolment.jobs import JobFileInfo, JobInfo
from app.keys.principal import Scope

bp = APIBlueprint(
    "jobs",
    __name__,
    url_prefix="/v1/jobs",
    abp_tags=[Tag(name="jobs")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: JobPage})
@access(Scope.ENROL)
def list_jobs(query: JobListQuery) -> ViewReturn:
    """List jobs, the latest first; those that ended long ago are deleted."""
    page = services().jobs.list(**query.model_dump())
    return {"items": [dump_job(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.get("/<job_id>", responses={200: JobOut})
@access(Scope.ENROL)
def get_job(path: JobPath) -> ViewReturn:
    """Say how far a job is."""
    return dump_job(services().jobs.read(path.job_id))


@bp.get("/<job_id>/files", responses={200: JobFilePage})
@access(Scope.ENROL)
def list_job_files(path: JobPath, query: JobFilesQuery) -> ViewReturn:
    """List the files of a bulk enrolment with what became of each; a job of another kind has none."""
    page = services().jobs.files(path.job_id, **query.model_dump())
    return {"items": [_dump_file(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.post("/<job_id>/cancel", responses={200: JobOut})
@access(Scope.ENROL)
@idempotent
def cancel_job(path: JobPath) -> ViewReturn:
    """End a job that has not ended. Nothing more of it is done after the answer; what it has done stays."""
    return dump_job(services().jobs.cancel(path.job_id))


@bp.post("/<job_id>/retry", responses={200: JobOut})
@access(Scope.ENROL)
@idempotent
def retry_job(path: JobPath) -> ViewReturn:
    """Have a job that failed or was cancelled go on where it stopped, with the files that failed."""
    return dump_job(services().jobs.retry(path.job_id))


def dump_job(info: JobInfo) -> dict[str, Any]:
    """`JobOut`."""
    moments = {"created_at": info.created_at, "started_at": info.started_at, "finished_at": info.finished_at}
    return {
        "id": str(info.id),
        "kind": info.kind,
        "domain": info.domain,
        "person_id": None if info.person_id is None else str(info.person_id),
        "state": info.state,
        "attempts": info.attempts,
        "done": info.done,
        "total": info.total,
        "files": None if info.files is None else dict(info.files),
        "result": None if info.result is None else dict(info.result),
        "error": _dump_error(info.error_code, info.error_message),
        "created_by": info.created_by,
        **{name: None if moment is None else moment.isoformat() for name, moment in moments.items()},
    }


def _dump_file(info: JobFileInfo) -> dict[str, Any]:
    return {
        "position": info.position,
        "file": info.file,
        "label": info.label,
        "state": info.state,
        "face_id": None if info.face_id is None else str(info.face_id),
        "error": _dump_error(info.error_code, info.error_message),
    }


def _dump_error(code: str | None, message: str | None) -> dict[str, str] | None:
    return None if code is None else {"code": code, "detail": message or code}
