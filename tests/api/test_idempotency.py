"""Idempotency keys on real requests to the application, over a real database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from flask import Flask, g
from sqlalchemy import text

from app.api import idempotency
from app.api.idempotency import HEADER, REPLAYED, fingerprint
from app.api.idempotency_header import takes_key
from app.api.wiring import build_app
from app.db.session import Database
from app.keys.admin_key import create_admin_key
from app.tenancy import everything, set_reach
from tests.db_server import Maker, random_units

PERSONS = "/v1/domains/people/persons"


@pytest.fixture
def app(database_settings, make_gallery: Maker, tmp_path):
    make_gallery("people", random_units(1, 8))
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    create_admin_key(settings.admin_key_file)
    app = build_app(settings)
    yield app
    app.extensions["facedex"].database.close()
    set_reach(everything("test"))  # the client's requests run in this thread, and leave theirs


@pytest.fixture
def send(app, tmp_path):
    """Sends a request with a key; `key=None` without."""
    secret = (tmp_path / "admin.key").read_text().strip()

    def send(method: str, path: str, key: str | None, **options):
        headers = {"x-api-key": secret} | ({HEADER: key} if key is not None else {})
        return app.test_client().open(path, method=method, headers=headers, **options)

    return send


def count(database: Database, table: str) -> int:
    set_reach(everything("test"))
    with database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))


def test_the_same_request_is_answered_by_the_first_answer_to_the_byte(database: Database, send) -> None:
    first, second = (send("POST", PERSONS, "k1", json={"label": "Ana"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.data == second.data
    assert second.content_type == first.content_type
    assert (first.headers.get(REPLAYED), second.headers.get(REPLAYED)) == (None, "true")
    assert count(database, "persons") == 2
    assert send("POST", PERSONS, None, json={"label": "Ana"}).status_code == 409


def test_headers_of_the_answer_are_kept(app, send, database: Database) -> None:
    @app.post("/test")
    @idempotency.idempotent
    def view():
        return {"n": str(uuid4())}, 201, {"Location": "/somewhere"}

    app.view_functions["view"].facedex_access = app.view_functions["persons.create_person"].facedex_access
    first, second = (send("POST", "/test", "k1") for _ in range(2))
    assert first.json == second.json
    assert second.headers["Location"] == "/somewhere"


@pytest.mark.parametrize(
    "other",
    [
        ("POST", PERSONS, {"json": {"label": "Eva"}}),
        ("POST", PERSONS + "?a=1", {"json": {"label": "Ana"}}),
        ("PATCH", PERSONS + "/Ana", {"json": {"label": "Ana"}}),
        ("DELETE", PERSONS + "/Ana", {}),
    ],
)
def test_another_request_under_that_key_is_refused(database: Database, send, other) -> None:
    send("POST", PERSONS, "k1", json={"label": "Ana"})
    method, path, options = other
    answer = send(method, path, "k1", **options)
    assert (answer.status_code, answer.json["code"]) == (422, "idempotency_key_reused")
    assert count(database, "persons") == 2


@pytest.mark.parametrize("key", ["", " ", "a b", "ž", "x" * 256])
def test_a_key_that_is_none_is_refused(database: Database, send, key) -> None:
    answer = send("POST", PERSONS, key, json={"label": "Ana"})
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert count(database, "persons") == 1


def test_the_longest_key_is_taken(send) -> None:
    assert send("POST", PERSONS, "~" * 255, json={"label": "Ana"}).status_code == 201


def test_an_error_is_not_kept_and_the_key_may_try_again(database: Database, send) -> None:
    send("POST", PERSONS, None, json={"label": "Ana"})
    assert send("POST", PERSONS, "k1", json={"label": "Ana"}).status_code == 409
    assert count(database, "idempotent_requests") == 0
    send("DELETE", PERSONS + "/Ana", None)
    answer = send("POST", PERSONS, "k1", json={"label": "Ana"})
    assert (answer.status_code, answer.headers.get(REPLAYED)) == (201, None)


def test_a_deletion_is_answered_again(send) -> None:
    send("POST", PERSONS, None, json={"label": "Ana"})
    first, second = (send("DELETE", PERSONS + "/Ana", "k1") for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.data == second.data


def test_the_same_request_many_times_at_once_is_done_once(app, database: Database, send) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: send("POST", PERSONS, "k1", json={"label": "Ana"}), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.data for answer in answers}) == 1
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    assert count(database, "persons") == 2


def test_a_request_still_in_work_is_waited_for_until_the_deadline(app, database: Database, send) -> None:
    started, go_on = threading.Event(), threading.Event()

    @app.post("/slow")
    @idempotency.idempotent
    def slow():
        started.set()
        go_on.wait(60)
        return {}, 200

    @app.before_request
    def _hasten() -> None:
        if started.is_set() and not go_on.is_set():
            g.deadline = g.deadline.after(0.2)

    app.view_functions["slow"].facedex_access = app.view_functions["persons.create_person"].facedex_access
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(send, "POST", "/slow", "k1")
        assert started.wait(60)
        assert send("POST", "/slow", "k1").status_code == 504
        go_on.set()
        assert first.result().status_code == 200
    assert send("POST", "/slow", "k1").headers[REPLAYED] == "true"


def test_an_old_answer_is_gone_and_the_key_is_free(app, database: Database, send) -> None:
    send("POST", PERSONS, "k1", json={"label": "Ana"})
    set_reach(everything("test"))
    with database.transaction() as session:
        session.execute(text("UPDATE idempotent_requests SET created_at = now() - interval '2 days'"))
    assert send("POST", PERSONS, "k1", json={"label": "Eva"}).status_code == 201
    assert count(database, "idempotent_requests") == 1


def test_old_answers_are_swept_up_as_others_are_added(app, database: Database, send) -> None:
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO idempotent_requests (client, key, fingerprint, created_at)"
                " SELECT 'gone', n, '\\x00', now() - interval '2 days' FROM generate_series(1, 20) AS n"
            )
        )
    send("POST", PERSONS, "k1", json={"label": "Ana"}).close()
    assert count(database, "idempotent_requests") == 1


def test_a_domains_answers_go_with_it(database: Database, send) -> None:
    send("POST", PERSONS, "k1", json={"label": "Ana"})
    assert send("DELETE", "/v1/domains/people", "k2").status_code == 200
    assert send("DELETE", "/v1/domains/people", "k2").headers[REPLAYED] == "true"
    assert count(database, "idempotent_requests") == 1


def test_a_secret_is_told_once_and_not_kept(app, database: Database, send) -> None:
    @app.post("/secret")
    @idempotency.idempotent(secret="key")
    def view():
        return {"id": 1, "key": "fdx_verysecret"}, 201

    app.view_functions["view"].facedex_access = app.view_functions["persons.create_person"].facedex_access
    assert send("POST", "/secret", "k1").json == {"id": 1, "key": "fdx_verysecret"}
    assert send("POST", "/secret", "k1").json == {"id": 1, "key": None}
    set_reach(everything("test"))
    with database.transaction() as session:
        assert b"verysecret" not in bytes(session.scalar(text("SELECT body FROM idempotent_requests")))


def test_the_boundary_of_a_multipart_body_makes_no_difference() -> None:
    app = Flask("test")

    def print_of(boundary: str, content: str, name: str = "a.jpg") -> bytes:
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--{boundary}\r\n'
            f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n{content}\r\n--{boundary}--\r\n'
        )
        kind = f"multipart/form-data; boundary={boundary}"
        with app.test_request_context("/", method="POST", data=body, content_type=kind) as context:
            found = fingerprint(context.request)
            assert context.request.files["file"].read() == content.encode()  # still there to be read
            return found

    assert print_of("aaa", "photo") == print_of("bbb", "photo")
    assert print_of("aaa", "photo") != print_of("aaa", "other")
    assert print_of("aaa", "photo") != print_of("aaa", "photo", "b.jpg")


def test_every_write_takes_a_key(app) -> None:
    writes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in rule.methods & {"POST", "PUT", "PATCH", "DELETE"}
        if not takes_key(app, rule.endpoint)
    }
    # These answer a question, and change nothing; or they change nothing but what the browser keeps.
    assert writes == {
        "POST /sign-in",
        "POST /sign-out",
        "POST /recognize",
        "POST /v1/detect",
        "POST /v1/embeddings",
        "POST /v1/embeddings/batch",
        "POST /v1/verify",
        "POST /v1/domains/<domain>/persons/<label>/verify",
    }


def test_the_description_shows_the_header(app, send) -> None:
    paths = send("GET", "/openapi.json", None).json["paths"]
    shown = [parameter["name"] for parameter in paths["/v1/domains/{domain}/persons"]["post"]["parameters"]]
    assert shown.count(HEADER) == 1
    assert HEADER not in [item["name"] for item in paths["/v1/domains/{domain}/persons"]["get"]["parameters"]]
