"""What a key may use, asked of the application itself."""

import io
import socket
import threading

import pytest
from flask import Response

from app import create_app
from app.api.access import access
from app.api.wiring import services
from app.config import parse_settings
from app.db.session import Database
from app.keys.admin_key import create_admin_key
from app.keys.grants import Grant
from app.keys.principal import ADMIN, Scope


@pytest.fixture
def make_app(database_settings, tmp_path):
    """Applications over a database of the test's own."""
    made = []

    def make(**changes):
        settings = database_settings.model_copy(update={"storage_dir": tmp_path / "storage", **changes})
        create_admin_key(settings.admin_key_file)
        app = create_app(settings)
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            services().database.close()


def new_key(app, **changes) -> dict[str, str]:
    """Headers with a key for every domain."""
    grant = Grant(frozenset({Scope.RECOGNIZE}), every_domain=True, **changes)
    with app.app_context():
        _, text = services().keys.create("test", grant, ADMIN)
    return {"x-api-key": text}


def admin(app) -> dict[str, str]:
    with app.app_context():
        return {"x-api-key": services().settings.admin_key_file.read_text().strip()}


def test_a_key_has_its_own_rate_and_is_told_where_it_stands(make_app):
    app = make_app(rate_limit_per_minute=100)
    client, key = app.test_client(), new_key(app, rate_per_minute=2)
    answers = [client.get("/v1/domains", headers=key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0", "0"]
    refused = answers[-1]
    assert (refused.json["code"], refused.content_type) == ("rate_limited", "application/problem+json")
    assert refused.headers["RateLimit-Limit"] == "2"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]


def test_a_key_without_a_rate_has_the_settings_and_another_key_is_not_held_up(make_app):
    app = make_app(rate_limit_per_minute=1)
    client, key = app.test_client(), new_key(app)
    assert [client.get("/v1/domains", headers=key).status_code for _ in range(2)] == [200, 429]
    assert client.get("/v1/domains", headers=new_key(app)).status_code == 200


def test_without_a_rate_nothing_is_told_and_nothing_is_limited(make_app):
    app = make_app()
    client, key = app.test_client(), new_key(app)
    answers = [client.get("/v1/domains", headers=key) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any("RateLimit-Limit" in answer.headers for answer in answers)


def test_the_admin_key_and_health_have_no_limits(make_app):
    app = make_app(rate_limit_per_minute=1, key_max_concurrent=1)
    client, key = app.test_client(), admin(app)
    assert {client.get("/v1/domains", headers=key).status_code for _ in range(3)} == {200}
    assert {client.get("/healthz").status_code for _ in range(3)} == {200}


def test_refusals_count_too_so_that_nobody_walks_the_routes_for_nothing(make_app):
    app = make_app()
    client, key = app.test_client(), new_key(app, rate_per_minute=2)
    codes = [client.get("/metrics", headers=key).json["code"] for _ in range(3)]
    assert codes == ["scope_missing", "scope_missing", "rate_limited"]


def test_an_address_without_a_valid_key_is_limited_and_valid_keys_from_it_go_on(make_app):
    app = make_app(auth_failures_per_minute=3)
    client, key = app.test_client(), new_key(app)
    guess = {"x-api-key": f"fdx_{'0' * 16}_{'A' * 43}"}
    answers = [client.get("/v1/domains", headers=headers) for headers in (guess, {}, guess, guess, {})]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert answers[-1].json["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert "RateLimit-Remaining" not in answers[0].headers
    assert client.get("/v1/domains", headers=key).status_code == 200
    assert client.get("/v1/domains", headers=admin(app)).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_an_address_that_has_guessed_too_much_costs_the_database_nothing(make_app, monkeypatch):
    app = make_app(auth_failures_per_minute=1)
    client, key = app.test_client(), new_key(app)
    asked = []
    transaction = Database.transaction
    monkeypatch.setattr(Database, "transaction", lambda *args: (asked.append(args), transaction(*args))[1])
    guess = {"x-api-key": f"fdx_{'0' * 16}_{'A' * 43}"}
    assert [client.get("/v1/domains", headers=guess).status_code for _ in range(5)] == [401, 429, 429, 429, 429]
    assert len(asked) == 1
    assert client.get("/v1/domains", headers=key).status_code == 200


@pytest.fixture
def busy_app(make_app):
    """Two places a key; a route that waits, and one whose answer is streamed."""
    app = make_app(key_max_concurrent=2)
    app.entered, app.go_on = threading.Semaphore(0), threading.Event()

    @app.route("/wait")
    @access()
    def _wait():
        app.entered.release()
        app.go_on.wait(60)
        return "done"

    @app.route("/stream")
    @access()
    def _stream():
        def lines():
            yield "one\n"
            yield "two\n"

        return Response(lines())

    @app.route("/crash")
    @access()
    def _crash():
        raise RuntimeError("on purpose")

    return app


def test_a_key_with_all_its_places_taken_is_told_to_come_back_and_others_get_in(busy_app):
    key, other = new_key(busy_app), new_key(busy_app)
    done = []

    def wait() -> None:
        done.append(busy_app.test_client().get("/wait", headers=key).status_code)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert busy_app.entered.acquire(timeout=30)
    client = busy_app.test_client()
    refused = client.get("/v1/domains", headers=key)
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_requests")
    assert refused.headers["Retry-After"] == "1"
    assert client.get("/v1/domains", headers=other).status_code == 200
    assert client.get("/v1/domains", headers=admin(busy_app)).status_code == 200
    busy_app.go_on.set()
    for thread in threads:
        thread.join()
    assert done == [200, 200]
    assert client.get("/v1/domains", headers=key).status_code == 200


def test_a_place_comes_back_whatever_happens(busy_app):
    client, key = busy_app.test_client(), new_key(busy_app)
    for path, status in (
        ("/crash", 500),
        ("/metrics", 403),
        ("/nowhere", 404),
        ("/docs/", 200),
        ("/v1/domains", 200),
    ) * 3:
        with client.get(path, headers=key) as answer:
            assert answer.status_code == status, path
    for _ in range(3):
        assert client.post("/recognize", headers=key, data={"file": (io.BytesIO(b""), "a")}).status_code in (400, 422)
        with client.head("/stream", headers=key) as answer:
            assert answer.status_code == 200


def test_a_streamed_answer_has_its_place_until_its_last_line(busy_app):
    client, key = busy_app.test_client(), new_key(busy_app)
    streams = [client.get("/stream", headers=key, buffered=False) for _ in range(2)]
    assert client.get("/v1/domains", headers=key).status_code == 429
    assert streams[0].get_data() == b"one\ntwo\n"
    streams[0].close()
    assert client.get("/v1/domains", headers=key).status_code == 200
    streams[1].close()  # whose client went away in the middle
    with client.get("/stream", headers=key, buffered=False), client.get("/stream", headers=key, buffered=False):
        pass


def test_making_the_application_starts_no_thread(tmp_path):
    before = set(threading.enumerate())
    create_app(parse_settings(storage_dir=tmp_path, redis_url="redis://127.0.0.1:1/0", rate_limit_per_minute=5))
    assert set(threading.enumerate()) <= before


def test_every_way_to_call_without_a_key_is_answered_alike(make_app):
    app = make_app(auth_failures_per_minute=10_000)
    client = app.test_client()
    with app.app_context():
        info, text = services().keys.create("ended", Grant(frozenset({Scope.RECOGNIZE}), every_domain=True), ADMIN)
        services().keys.revoke(str(info.id))
    bodies = set()
    for given in (text, f"fdx_{'0' * 16}_{'A' * 43}", "x", "fdx_" + "a" * 500):
        answer = client.get("/v1/domains", headers={"x-api-key": given, "x-request-id": "r"})
        assert answer.status_code == 401
        bodies.add((answer.data, tuple(answer.headers.items())))
    assert len(bodies) == 1
    with socket.socket() as connection:  # which streams ask Gunicorn for
        for path, methods in app.api_doc["paths"].items():
            for method in methods:
                if path not in ("/healthz", "/readyz"):
                    given = {"gunicorn.socket": connection}
                    answer = client.open(path, method=method.upper(), environ_overrides=given)
                    assert (answer.status_code, answer.json["code"]) == (401, "unauthenticated"), path
