"""`/v1/domains/{domain}/imports`."""

import io
from typing import cast

from flask import g, jsonify, request, url_for
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy.orm import Session
from werkzeug.datastructures import FileStorage

from app.api.access import access
from app.api.idempotency import once_in_bulk
from app.api.idempotency_header import marked
from app.api.job_schemas import ImportQuery, JobOut
from app.api.jobs import dump_job
from app.api.openapi import BINARY, PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.pictures import FILE_FIELDS
from app.api.schemas import DomainPath
from app.api.spool import spooled
from app.api.wiring import services
from app.config import Settings
from app.enrolment.archives import Archive, Member, is_zip
from app.enrolment.imports import Source, start_import
from app.enrolment.jobs import info_of
from app.errors import EmptyUpload
from app.keys.principal import Scope

bp = APIBlueprint(
    "imports",
    __name__,
    url_prefix="/v1/domains/<domain>/imports",
    abp_tags=[Tag(name="jobs")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": BINARY,
                            "description": "one zip, or pictures whose file names are paths: Alice/1.jpg",
                        }
                    },
                }
            }
        },
    }
}


@bp.post("", responses={202: JobOut}, openapi_extensions=_BODY)
@access(Scope.ENROL)
@marked
def start(path: DomainPath, query: ImportQuery) -> ViewReturn:
    """Enrol many pictures in the background: a zip, or a folder's files, with a folder per person.

    Answered with the job that does it, once everything is stored; what becomes of each file is told by the job's files.
    """
    settings = services().settings
    with (
        services().long_requests.place(g.client.id),
        spooled(
            request._get_current_object(),  # type: ignore[attr-defined]
            max_files=settings.max_import_files,
            max_bytes=settings.max_import_bytes,
            folder=settings.storage_dir,
        ),
    ):

        def write(session: Session) -> ViewReturn:
            job_id = start_import(
                session, settings, path.domain, _source(settings), skip=query.skip, request_id=g.request_id
            )
            response = jsonify(dump_job(info_of(session, job_id)))
            response.status_code = 202
            response.headers["Location"] = url_for("jobs.get_job", job_id=job_id)
            return response

        return once_in_bulk(write)


def _source(settings: Settings) -> Source:
    """What was sent: the files of a zip, or the files themselves.

    Raises:
        EmptyUpload: no file.
        InvalidArchive, ImportTooLarge: as `Archive`.
    """
    files: list[FileStorage] = [file for field in FILE_FIELDS for file in request.files.getlist(field)]
    if not files:
        raise EmptyUpload("Send a zip, or pictures with their paths as file names, as the multipart field 'file'.")
    if len(files) == 1 and is_zip(_read(files[0], 4)):
        archive = Archive(
            io.BufferedReader(cast(io.RawIOBase, files[0].stream)),
            max_files=settings.max_import_files,
            max_bytes=settings.max_import_bytes,
            max_file_bytes=settings.max_upload_bytes,
        )
        return Source.of_zip(archive)
    names = [file.filename or "file" for file in files]
    most = settings.max_upload_bytes + 1
    return Source(names, lambda number: Member(names[number], _read(files[number], most)))


def _read(file: FileStorage, most_bytes: int) -> bytes:
    file.stream.seek(0)
    return file.stream.read(most_bytes)
