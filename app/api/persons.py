"""`/v1/domains/{domain}/persons`."""

import tempfile
from contextlib import ExitStack

from flask import g, request, send_file
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_listed, dump_person, dump_photo
from app.api.erasures import answer_erasure
from app.api.idempotency import idempotent, kept_answer, once
from app.api.idempotency_header import marked
from app.api.openapi import BINARY, PROBLEM_RESPONSES, SECURITY, ViewReturn, form_with_photos
from app.api.person_schemas import Merge, MergeAnswer
from app.api.pictures import parse_form
from app.api.problems import validated
from app.api.reference_schemas import NewPersonOut
from app.api.references import hold_place
from app.api.schemas import (
    DomainPath,
    Erased,
    NewPerson,
    PersonListQuery,
    PersonOut,
    PersonPage,
    PersonPath,
    PersonUpdate,
)
from app.api.wiring import services
from app.enrolment.persons import UNSET, PersonChange, PersonDetails
from app.keys.principal import Scope

bp = APIBlueprint(
    "persons",
    __name__,
    url_prefix="/v1/domains/<domain>/persons",
    abp_tags=[Tag(name="persons")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: PersonPage})
@access(Scope.ENROL)
def list_persons(path: DomainPath, query: PersonListQuery) -> ViewReturn:
    """List a domain's persons by label."""
    page = services().directory.list(
        path.domain, limit=query.limit, cursor=query.cursor, contains=query.q, external_id=query.external_id
    )
    items = [dump_listed(person) for person in page.items]
    return {"items": items, "total": page.total, "next_cursor": page.next_cursor}


@bp.post("", responses={201: NewPersonOut}, openapi_extensions=form_with_photos(NewPerson))
@access(Scope.ENROL)
@marked
def create_person(path: DomainPath) -> ViewReturn:
    """Create a person without faces; uploading a face to a new label creates one too.

    Photos that come along are kept as reference photos, and their faces extracted in the background.
    """
    with ExitStack() as held:
        hold_place(held)
        if (kept := kept_answer()) is not None:
            return kept
        settings = services().settings
        form = parse_form(request, max_bytes=settings.max_upload_bytes, max_files=settings.max_request_files)
        body = validated(NewPerson, form.parameters)
        details = PersonDetails(body.external_id, body.valid_from, body.valid_until, body.metadata)
        uploads = [(upload.name, upload.data) for upload in form.uploads]

        def write() -> ViewReturn:
            named = (path.domain, body.label, body.display_name, details)
            if not uploads:
                return dump_person(services().persons.create(*named)), 201
            added = services().references.register(*named, uploads, request_id=g.request_id)
            photos = [dump_photo(photo) for photo in added.photos]
            return dump_person(added.person) | {"photos": photos, "job_id": str(added.job_id)}, 201

        return once(write)


@bp.get("/<label>", responses={200: PersonOut})
@access(Scope.ENROL)
def get_person(path: PersonPath) -> ViewReturn:
    """Show a person."""
    return dump_person(services().persons.get(path.domain, path.label))


@bp.patch("/<label>", responses={200: PersonOut})
@access(Scope.ENROL)
@idempotent
def change_person(path: PersonPath, body: PersonUpdate) -> ViewReturn:
    """Change what is given of a person; the rest stays. Metadata are replaced as a whole."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    if given.get("label", UNSET) is None:
        del given["label"]  # there is always one
    return dump_person(services().persons.update(path.domain, path.label, PersonChange(**given)))


@bp.post("/<label>/merge", responses={200: MergeAnswer})
@access(Scope.ENROL)
@idempotent
def merge_persons(path: PersonPath, body: Merge) -> ViewReturn:
    """Merge another person into this one: their faces and rejections move, and the other is gone."""
    merged = services().merging.merge(path.domain, path.label, body.from_)
    return {"person": dump_person(merged.person), "moved": merged.moved, "dropped": merged.dropped}


@bp.delete("/<label>", responses={200: Erased})
@access(Scope.ENROL)
@marked
def delete_person(path: PersonPath) -> ViewReturn:
    """Erase a person from every place: templates, feedback, pictures, kept answers, the domain's dataset. The receipt."""
    erasure = services().erasure
    return answer_erasure(
        lambda claim: erasure.erase(path.domain, path.label, claim=claim), is_long=lambda: erasure.is_long(path.domain)
    )


@bp.get(
    "/<label>/export",
    responses={200: {"description": "a zip file", "content": {"application/zip": {"schema": BINARY}}}},
)
@access(Scope.ADMIN)
def export_person(path: PersonPath) -> ViewReturn:
    """Give all that is held about a person, as a zip file: `person.json`, with vectors, and the pictures that were kept."""
    settings = services().settings
    file = tempfile.TemporaryFile(dir=settings.storage_dir)  # noqa: SIM115 - the answer closes it
    try:
        limit_s = settings.db_statement_timeout_s
        person_id = services().exports.write(path.domain, path.label, file, statement_limit_s=limit_s)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    response = send_file(file, "application/zip", as_attachment=True, download_name=f"{person_id}.zip")
    response.headers["Cache-Control"] = "no-store"
    return response
