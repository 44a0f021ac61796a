"""The stream's route where it ends before a stream: below another server than Gunicorn, and for those who guess."""

import socket
from unittest.mock import Mock
from uuid import uuid4

import pytest

from app import create_app
from app.config import parse_settings
from app.errors import SessionExpired

PATH = f"/v1/sessions/{uuid4()}/stream"
WEBSOCKET = {"Upgrade": "websocket", "Connection": "Upgrade"}


@pytest.fixture
def app(tmp_path):
    return create_app(parse_settings(storage_dir=tmp_path, auth_failures_per_minute=3, session_max_streams=1))


@pytest.fixture
def below_gunicorn():
    """What Gunicorn adds to a request, for the test client."""
    served, client = socket.socketpair()
    with served, client:
        yield {"gunicorn.socket": served}


def test_there_are_no_streams_below_another_server(app):
    for headers in ({}, WEBSOCKET):
        answer = app.test_client().get(PATH, headers=headers)
        assert (answer.status_code, answer.json["code"]) == (503, "streams_unavailable")


def test_who_guesses_tokens_is_told_to_wait_and_the_connection_stays_gunicorns(app, below_gunicorn):
    statuses = [
        app.test_client().get(PATH, headers=WEBSOCKET, environ_overrides=below_gunicorn).status_code for _ in range(5)
    ]
    assert statuses == [401, 401, 401, 429, 429]
    assert below_gunicorn["gunicorn.socket"].fileno() >= 0


def test_what_is_refused_takes_no_place(app, below_gunicorn):
    for _ in range(3):
        token = {"Authorization": "Bearer t"}
        answer = app.test_client().get(PATH, headers=token, environ_overrides=below_gunicorn)
        assert answer.json["code"] == "upgrade_required"


def test_the_request_has_no_body(app, below_gunicorn):
    answer = app.test_client().get(PATH, headers=WEBSOCKET, data=b"x", environ_overrides=below_gunicorn)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")


def test_who_opens_streams_again_and_again_is_told_to_wait_before_anything_is_looked_up(
    app, below_gunicorn, monkeypatch
):
    monkeypatch.setattr("app.api.throttle._OPENS_OF_A_SESSION", 3)
    monkeypatch.setattr("app.api.throttle._OPENS", 5)
    monkeypatch.setattr(
        "app.sessions.service.SessionService.open_stream", asked := Mock(side_effect=SessionExpired("x"))
    )
    headers = WEBSOCKET | {
        "Authorization": "Bearer t",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }

    def opened(path: str) -> int:
        return app.test_client().get(path, headers=headers, environ_overrides=below_gunicorn).status_code

    assert [opened(PATH) for _ in range(4)] == [410, 410, 410, 429]
    assert [opened(f"/v1/sessions/{uuid4()}/stream") for _ in range(3)] == [410, 410, 429]
    assert asked.call_count == 5
