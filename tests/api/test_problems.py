import inspect

import psycopg
import pytest
import structlog
from flask import Flask, g

from app import errors
from app.api.problems import PROBLEMS, problem_of, register_error_handlers

ALL_ERRORS = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, errors.FacedexError)]


@pytest.mark.parametrize("error", ALL_ERRORS)
def test_every_error_has_a_line_of_its_own(error):
    assert error in PROBLEMS


def test_codes_are_unique():
    codes = [error.code for error in ALL_ERRORS]
    assert len(codes) == len(set(codes))


def test_the_tree_at_the_top_of_errors_names_every_class():
    tree = (errors.__doc__ or "").split()
    assert [error.__name__ for error in ALL_ERRORS if error.__name__ not in tree] == []


@pytest.fixture
def client():
    app = Flask("test")
    register_error_handlers(app)

    @app.before_request
    def _context():
        g.request_id = "r1"

    @app.get("/crash")
    def _crash():
        raise RuntimeError("password=hunter2")

    @app.get("/busy")
    def _busy():
        raise errors.PoolBusy("All workers are busy.")

    @app.get("/away")
    def _away():
        try:
            raise psycopg.OperationalError("connection refused\nmore of it")
        except psycopg.OperationalError as error:
            raise errors.DatabaseUnavailable("The database cannot be reached.") from error

    @app.get("/all-taken")
    def _all_taken():
        raise errors.DatabaseBusy("No connection became free.")

    return app.test_client()


def test_an_unexpected_exception_tells_the_client_nothing(client):
    response = client.get("/crash")
    assert response.status_code == 500
    assert response.content_type == "application/problem+json"
    assert response.get_json()["request_id"] == "r1"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


def test_busy_says_when_to_come_back(client):
    response = client.get("/busy")
    assert (response.status_code, response.get_json()["code"]) == (503, "pool_busy")
    assert int(response.headers["Retry-After"]) > 0


def test_a_database_that_is_away_is_one_line_in_the_log_with_the_drivers_reason(client):
    with structlog.testing.capture_logs() as lines:
        for path in ("/away", "/all-taken"):
            response = client.get(path)
            assert (response.status_code, "refused" in response.text) == (503, False)
    assert [line["event"] for line in lines] == [
        "[API] database_unavailable: The database cannot be reached. (connection refused)",
        "[API] database_busy: No connection became free.",
    ]
    assert not any("exc_info" in line for line in lines)


def test_a_wrong_method_says_which_are_allowed(client):
    response = client.post("/busy")
    assert (response.status_code, response.get_json()["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]


def test_a_problem_has_the_members_of_rfc_9457(client):
    with client.application.test_request_context():
        problem = problem_of(errors.NoFaceFound("No face."))
    assert {"type", "title", "status", "detail"} <= set(problem)
    assert problem["type"].endswith("no_face")
