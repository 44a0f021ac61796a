"""Idempotency keys: a write that is sent twice is done once, and answered the same way both times.

A client that got no answer sends the request again with the same `Idempotency-Key`. What was claimed, done and answered is
one transaction; an answer that is an error is not kept, and the key may try again.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any, Final, TypeVar, cast, overload

import structlog
from flask import Request, Response, current_app, g, json, make_response, request
from sqlalchemy.orm import Session
from werkzeug.http import parse_options_header

from app.api.idempotency_header import HEADER, marked
from app.api.openapi import ViewReturn
from app.api.wiring import services
from app.db.idempotency import Claim, KeptAnswer, claim, find, keep
from app.errors import InvalidRequest
from app.names import clean_name
from app.tenancy import current_reach

V = TypeVar("V", bound=Callable[..., Any])

log = structlog.stdlib.get_logger("facedex.api")

REPLAYED: Final = "Idempotent-Replayed"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
# These are of the answer that is on its way, not of the one that was kept.
_NOT_KEPT: Final = frozenset({"content-length", "date", "x-request-id"})
_CHUNK_BYTES: Final = 1 << 20


@overload
def idempotent(view: V) -> V: ...
@overload
def idempotent(*, secret: str) -> Callable[[V], V]: ...
def idempotent(view: V | None = None, *, secret: str | None = None) -> V | Callable[[V], V]:
    """Do a writing view's work once for each idempotency key; stands below `@access`.

    The view's transactions become one (`Database.unit_of_work`), so it must not wait for anything else than the database:
    views that ask the pool first use `once` around what they write, and those of many transactions `resumable`.

    Args:
        secret: a member of the JSON answer that is told once and not kept; repetitions have null there.
    """

    def decorate(view: V) -> V:
        @functools.wraps(view)
        def once_a_key(*args: Any, **kwargs: Any) -> ViewReturn:
            return once(lambda: view(*args, **kwargs), secret=secret)

        return marked(cast(V, once_a_key))

    return decorate if view is None else decorate(view)


def once(write: Callable[[], ViewReturn], *, secret: str | None = None) -> ViewReturn:
    """Do what a request asks once for its key, in one transaction with the claim and the answer; without a key simply do it.

    Args:
        write: makes the answer; an exception, or an answer from 400 on, undoes everything.
        secret: as of `idempotent`.

    Raises:
        InvalidRequest: the key is none.
        IdempotencyKeyReused: it stands for another request.
        DatabaseError: as `Database.unit_of_work`; DatabaseTimeout also where the same request is still in work elsewhere.
    """
    if (wanted := claimed_request()) is None:
        return write()
    settings, database = services().settings, services().database
    try:
        with database.unit_of_work(max(0.001, g.deadline.remaining_s())) as session:
            kept = claim(session, wanted, keep_s=settings.idempotency_keep_s)
            if kept is not None:
                return _replay(kept)
            response = make_response(write())
            if response.status_code >= 400:
                raise _Undone(response)
            keep(session, wanted, _kept_of(response, secret), domain=_domain())
    except _Undone as undone:
        return undone.response
    return response


def once_in_bulk(write: Callable[[Session], ViewReturn]) -> ViewReturn:
    """As `once`, for what stores much: one transaction, whose statements take as long as they take.

    Args:
        write: gets the transaction; makes the answer; an exception undoes everything.

    Raises: as `once`.
    """
    settings, database = services().settings, services().database
    wanted = claimed_request()
    with database.bulk_transaction() as session:
        if wanted is None:
            return write(session)
        kept = claim(session, wanted, keep_s=settings.idempotency_keep_s)
        if kept is not None:
            return _replay(kept)
        response = make_response(write(session))
        keep(session, wanted, _kept_of(response, None), domain=_domain())
    return response


def kept_answer() -> Response | None:
    """What this request was answered before, where it has a key and was: for views that do long work before they write.

    Raises:
        InvalidRequest, IdempotencyKeyReused, DatabaseError: as `once`.
    """
    if (wanted := claimed_request()) is None:
        return None
    with services().database.transaction() as session:
        kept = find(session, wanted, keep_s=services().settings.idempotency_keep_s)
    return None if kept is None else _replay(kept)


def resumable(
    work: Callable[[Claim | None], tuple[Response, bool]], *, as_kept: Callable[[Session, bytes], bytes] | None = None
) -> Response:
    """For requests of many transactions: claim, do, keep the answer, each in a transaction of its own.

    A repetition works along with the first one, or goes on where that was broken off; `work` has to note with each step that
    it was done for this claim.

    Args:
        work: gets the claim, None where there is no key; returns the answer, and whether it is final: another one is not kept,
            and a repetition tries again.
        as_kept: makes of the answer's body what is kept of it, in that transaction.

    Raises:
        InvalidRequest, IdempotencyKeyReused, DatabaseError: as `once`.
    """
    if (wanted := claimed_request()) is None:
        return work(None)[0]
    settings, database = services().settings, services().database
    with database.transaction() as session:
        kept = claim(session, wanted, keep_s=settings.idempotency_keep_s)
    if kept is not None:
        return _replay(kept)
    response, final = work(wanted)
    if final and response.status_code < 400:
        answer = _kept_of(response, None)
        with database.transaction() as session:
            body = answer.body if as_kept is None else as_kept(session, answer.body)
            keep(session, wanted, replace(answer, body=body), domain=_domain())
    return response


def claimed_request() -> Claim | None:
    """The current request as what its key stands for; None where it has none. Reads the body.

    Raises:
        InvalidRequest: the key is empty, too long, or has other characters than visible ASCII.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidRequest(f"{HEADER} is 1 to 255 visible ASCII characters.")
    claimed: Claim | None = g.get("claimed_request")
    if claimed is None:
        claimed = g.claimed_request = Claim(current_reach().client, key, fingerprint(request))
    return claimed


def fingerprint(request: Request) -> bytes:
    """SHA-256 of what a request asks: method, path, query, and body with its type.

    Of a multipart body its parts count, not the boundary between them, which clients make up anew each time.
    """
    digest = hashlib.sha256()
    mimetype, options = parse_options_header(request.headers.get("Content-Type"))
    kind = [mimetype, *(f"{name}={value}" for name, value in sorted(options.items()) if name != "boundary")]
    for part in (request.method, request.path, request.query_string, *kind, *_body_parts(request)):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))  # parts that are cut elsewhere are others
        digest.update(data)
    return digest.digest()


class _Undone(Exception):
    """The answer is an error: what was written for it goes."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def _body_parts(request: Request) -> Iterable[bytes | str]:
    if request.mimetype != "multipart/form-data":
        return [request.get_data()]
    return _multipart_parts(request)


def _multipart_parts(request: Request) -> Generator[bytes | str]:
    for name, value in request.form.items(multi=True):
        yield from ("field", name, value)
    for name, file in request.files.items(multi=True):
        digest = hashlib.sha256()
        while chunk := file.stream.read(_CHUNK_BYTES):
            digest.update(chunk)
        file.stream.seek(0)
        yield from ("file", name, file.filename or "", file.content_type or "", digest.digest())


def _domain() -> str | None:
    """What the path calls the domain."""
    named = (request.view_args or {}).get("domain")
    return None if named is None else clean_name(named, "domain name")


def _kept_of(response: Response, secret: str | None) -> KeptAnswer:
    headers = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_KEPT}
    body = response.get_data()
    if secret is not None:
        body = current_app.json.dumps(json.loads(body) | {secret: None}).encode()
    return KeptAnswer(response.status_code, headers, body)


def _replay(kept: KeptAnswer) -> Response:
    response = Response(kept.body, kept.status, dict(kept.headers))
    response.headers[REPLAYED] = "true"
    return response
