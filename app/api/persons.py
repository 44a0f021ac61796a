"""`/v1/domains/{domain}/persons`."""

import tempfile

from flask import send_file
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_person
from app.api.erasures import answer_erasure
from app.api.idempotency import idempotent
from app.api.idempotency_header import marked
from app.api.openapi import BINARY, PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.person_schemas import Merge, MergeAnswer
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
    page = services().persons.list(
        path.domain, limit=query.limit, cursor=query.cursor, contains=query.q, external_id=query.external_id
    )
    return {"items": [dump_person(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.post("", responses={201: PersonOut})
@access(Scope.ENROL)
@idempotent
def create_person(path: DomainPath, body: NewPerson) -> ViewReturn:
    """Create a person without faces; uploading a face to a new label creates one too."""
    details = PersonDetails(body.external_id, body.valid_from, body.valid_until, body.metadata)
    return dump_person(services().persons.create(path.domain, body.label, body.display_name, details)), 201


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
    return send_file(file, "application/zip", as_attachment=True, download_name=f"{person_id}.zip")
