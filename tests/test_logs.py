"""No name of a person, and nothing that a client sent, gets into a log by way of an error."""

import logging
from pathlib import Path

import pytest
import structlog
from gunicorn.config import Config

from app.config import parse_settings
from app.errors import PersonExists, PersonNotFound
from app.logs import WebLogger, configure_logging

NAME = "Ana 'the \"one\"' Ž"


@pytest.fixture(params=["console", "json"])
def log_file(request: pytest.FixtureRequest, tmp_path: Path):
    """A log that this process writes, in either format."""
    before = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logging(parse_settings(storage_dir=tmp_path, log_format=request.param), tmp_path / "log")
    yield tmp_path / "log"
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:], _ = before
    root.setLevel(before[1])


def test_errors_on_the_way_to_another_do_not_tell_who(log_file: Path) -> None:
    try:
        try:
            raise PersonNotFound(f"There is no person {NAME!r} in this domain.")
        except PersonNotFound as error:
            raise PersonExists(f"A person labelled {NAME!r} exists already.") from error
    except PersonExists as error:
        structlog.stdlib.get_logger("facedex.test").error("[API] Unexpected exception", exc_info=error)
    said = log_file.read_text()
    assert "PersonNotFound: There is no person '…' in this domain." in said.replace("\\u2026", "…")
    assert "Ana" not in said


def test_the_database_does_not_tell_which_value_was_there(log_file: Path) -> None:
    try:
        raise ValueError(f"duplicate key value\nDETAIL:  Key (label)=({NAME}) already exists.\nCONTEXT:  of {NAME}")
    except ValueError as error:
        structlog.stdlib.get_logger("facedex.test").error("[API] Unexpected exception", exc_info=error)
    said = log_file.read_text()
    assert "duplicate key value" in said
    assert "Ana" not in said


def test_gunicorn_does_not_tell_what_a_client_sent(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebLogger, "setup", lambda self, _: None)
    logger = WebLogger(Config())
    logger.error_log.setLevel(logging.DEBUG)
    logger.error_log.propagate = True
    logger.debug("%s %s", "GET", "/persons/Ana")
    logger.warning("Invalid request from ip=::1: Invalid HTTP Header: 'x-api-key: fdx_Ana'")
    logger.warning("Worker with pid 1 was terminated")
    try:
        raise ValueError
    except ValueError:
        logger.exception("Error handling request %s %s", "GET", "/persons/Ana")
    said = log_file.read_text()
    assert "Invalid request from ip=::1: Invalid HTTP Header" in said
    assert "Worker with pid 1 was terminated" in said
    assert "Error handling request" in said
    assert "Ana" not in said
