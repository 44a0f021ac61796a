"""Answers that are kept for requests with an idempotency key: those that tell of an erased person tell of it no longer.

The key stays, so that the request, sent once more, is not carried out once more. An enrolment's answer that only warned of
them, since the face is like theirs, loses the warning: the client that repeats the request has to be told of its own person.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote
from uuid import UUID

import orjson
from sqlalchemy import delete, select, text, tuple_, update
from sqlalchemy.orm import Session

from app.db.domains import find_domain, lock_domain
from app.db.erasures import Wanted
from app.db.models import FaceEmbedding, IdempotentFace, IdempotentRequest, Person
from app.errors import DomainNotFound, PersonErased

GONE_STATUS: Final = 410
_ROWS_AT_ONCE: Final = 50
_HEADERS: Final = {"Content-Type": "application/problem+json"}
_MAY_TELL_SQL: Final = """
(EXISTS (SELECT 1 FROM unnest(CAST(:needles AS bytea[])) AS n WHERE position(n IN body) > 0)
OR EXISTS (SELECT 1 FROM unnest(CAST(:needles AS bytea[])) AS n WHERE position(n IN convert_to(headers::text, 'UTF8')) > 0)
OR position('%' IN headers::text) > 0)
"""


def erase_answers(session: Session, domain_id: int, wanted: Wanted) -> int:
    """Replace what is kept of the domain's answers that are about the person, and cut warnings of them out of others.

    Returns:
        How many answers were changed.
    """
    query = (
        select(IdempotentRequest)
        .where(IdempotentRequest.domain_id == domain_id, IdempotentRequest.body.is_not(None), text(_MAY_TELL_SQL))
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    changed = 0
    for row in session.scalars(query, {"needles": list(_needles(wanted))}):
        body, headers = row.body or b"", row.headers or {}
        if row.status != GONE_STATUS and mentions(body, headers, wanted):
            unwarned = without_warnings(body, wanted)
            if mentions(unwarned, headers, wanted):
                row.status, row.headers, row.body = GONE_STATUS, dict(_HEADERS), _BODY
            else:
                row.body = unwarned
            changed += 1
            session.flush()
        session.expunge(row)
    return changed


def close_requests(session: Session, domain_id: int, person_id: UUID) -> None:
    """Requests in work that have enrolled the person are answered now; taken up again, they would enrol them again.

    Call it before the templates are deleted. A request that is another client's in work may be out of reach: it keeps its own
    note of the picture's digest, by which it finds, when it is taken up, that the face was deleted.
    """
    faces = select(FaceEmbedding.id).where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person_id)
    theirs = (IdempotentFace.domain_id == domain_id, IdempotentFace.face_id.in_(faces))
    request = tuple_(IdempotentRequest.client, IdempotentRequest.key)
    session.execute(
        update(IdempotentRequest)
        .where(request.in_(select(IdempotentFace.client, IdempotentFace.key).where(*theirs)))
        .where(IdempotentRequest.status.is_(None))
        .values(status=GONE_STATUS, headers=_HEADERS, body=_BODY, domain_id=domain_id),
        execution_options={"synchronize_session": False},
    )
    answered = select(IdempotentRequest.client, IdempotentRequest.key).where(IdempotentRequest.status.is_not(None))
    session.execute(
        delete(IdempotentFace).where(*theirs, tuple_(IdempotentFace.client, IdempotentFace.key).in_(answered)),
        execution_options={"synchronize_session": False},
    )


def mentions(body: bytes, headers: dict[str, str], wanted: Wanted) -> bool:
    """Whether an answer tells of the person: as a value of its own, or within a sentence, in quotation marks."""
    try:
        texts = list(_texts(json.loads(body)))
    except ValueError:
        return any(needle in body for needle in _needles(wanted))
    texts += [part for value in headers.values() for part in unquote(value).split("/")]
    return _any_tells(texts, wanted)


def without_warnings(body: bytes, wanted: Wanted) -> bytes:
    """An enrolment's answer without the warnings (`ConflictWarning`) that tell of the person; any other as it is."""
    return _cut(body, lambda warning: _any_tells(_texts(warning), wanted))


def of_who_is_there(session: Session, domain: str, body: bytes) -> bytes:
    """An enrolment's answer without the warnings of who was erased while it was written; for the transaction that keeps it.

    Nobody is erased from the domain from here on until the transaction ends, and who is afterwards finds what was kept.
    """
    named = {UUID(warning["person"]["id"]) for _, warning in _warnings(json.loads(body))}
    if not named:
        return body
    try:
        domain_id = lock_domain(session, find_domain(session, domain).id).id
    except DomainNotFound:
        return body
    found = session.scalars(select(Person.id).where(Person.domain_id == domain_id, Person.id.in_(named)))
    there = set(map(str, found))
    return _cut(body, lambda warning: warning["person"]["id"] not in there)


def _cut(body: bytes, is_cut: Callable[[dict[str, Any]], bool]) -> bytes:
    try:
        told = json.loads(body)
    except ValueError:
        return body
    cut = [(warnings, warning) for warnings, warning in _warnings(told) if is_cut(warning)]
    for warnings, warning in cut:
        warnings.remove(warning)
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE) if cut else body


def _warnings(told: Any) -> list[tuple[list[Any], dict[str, Any]]]:
    """The warnings in an enrolment's answer, each with the list that it stands in."""
    lists = [_members(result, "warnings") for result in _members(told, "results")]
    return [(warnings, warning) for warnings in lists for warning in warnings if isinstance(warning, dict)]


def _members(value: Any, name: str) -> list[Any]:
    """The list that an object has by that name; empty where there is none."""
    members = value.get(name) if isinstance(value, dict) else None
    return members if isinstance(members, list) else []


def _any_tells(texts: Iterable[str], wanted: Wanted) -> bool:
    quoted = tuple(f"'{name}'" for name in wanted.names) + tuple(map(repr, wanted.names))
    within = quoted if wanted.person_id is None else (*quoted, str(wanted.person_id))
    return any(found in wanted.names or any(part in found for part in within) for found in texts)


def _needles(wanted: Wanted) -> Iterator[bytes]:
    """What a body that mentions them holds: the texts in UTF-8, and as JSON escapes them."""
    for name in (*([] if wanted.person_id is None else [str(wanted.person_id)]), *wanted.names):
        yield name.encode()
        yield json.dumps(name)[1:-1].encode()
        yield json.dumps(name, ensure_ascii=False)[1:-1].encode()


def _texts(value: Any) -> Iterator[str]:
    """The values: the members' names are the API's words, which a person may be called by."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


_BODY: Final = json.dumps(
    {
        "type": f"urn:facedex:problem:{PersonErased.code}",
        "title": "Erased",
        "status": GONE_STATUS,
        "code": PersonErased.code,
        "detail": "The answer was about a person who has been erased since.",
        "request_id": "",
    }
).encode()
