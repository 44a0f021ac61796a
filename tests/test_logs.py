"""No name of a person, and nothing that a client sent, gets into a log by way of an error."""

import logging
import re
import time
from pathlib import Path

import pytest
import structlog
from gunicorn.config import Config

from app.config import parse_settings
from app.errors import PersonExists, PersonNotFound
from app.logs import WebLogger, configure_logging, hold_lines, release_lines

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


def test_a_line_of_either_kind_is_one_line_with_its_values(log_file: Path) -> None:
    log = structlog.stdlib.get_logger("facedex.test")
    log.debug("below the level")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("[TEST] Done\nwith it", faces=2, empty="")
    logging.getLogger("elsewhere").warning("of %s", "another")
    lines = log_file.read_text().splitlines()
    assert len(lines) == 2
    assert "r1" in lines[0]
    assert "faces" in lines[0]
    assert "[TEST] Done\\nwith it" in lines[0]
    assert "of another" in lines[1]
    assert "warning" in lines[1]


def test_a_library_that_gets_its_arguments_wrong_stops_nobody(log_file: Path, capsys) -> None:
    [handler] = [one for one in logging.getLogger().handlers if type(one).__module__ == "app.logs"]  # beside pytest's
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",), "levelno": logging.WARNING}))
    assert "no number" in capsys.readouterr().err
    assert log_file.read_text() == ""


@pytest.mark.parametrize("level", ["info", "warning", "error", "critical", "exception"])
def test_every_way_to_say_something_is_a_line(log_file: Path, level: str) -> None:
    try:
        raise ValueError("on purpose")
    except ValueError:
        getattr(structlog.stdlib.get_logger("facedex.test"), level)("[TEST] Said")
    said = log_file.read_text()
    assert "[TEST] Said" in said
    assert ("error" if level == "exception" else level) in said
    assert ("ValueError: on purpose" in said) == (level == "exception")


def test_lines_of_a_request_are_held_with_the_time_they_were_said(log_file: Path) -> None:
    log = structlog.stdlib.get_logger("facedex.test")
    hold_lines()
    log.info("first")
    logging.getLogger("elsewhere").info("second")
    assert log_file.read_text() == ""
    time.sleep(0.01)
    log.warning("third")
    release_lines()
    stamps = [re.search(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line).group() for line in log_file.read_text().splitlines()]
    assert len(stamps) == 3
    assert stamps[0] < stamps[2]


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


def test_lines_follow_the_log_to_where_it_is_configured_anew(log_file: Path, tmp_path: Path) -> None:
    log = structlog.stdlib.get_logger("facedex.test")
    log.info("[API] one", detail="a b")
    log_file.rename(tmp_path / "rotated")
    log.info("[API] two")
    log.debug("[API] too little to be told")
    configure_logging(parse_settings(storage_dir=tmp_path), tmp_path / "other", level="WARNING")
    log.info("[API] three")
    log.warning("[API] four")
    logging.getLogger("somebody.elses").warning("five")
    assert "one" in (tmp_path / "rotated").read_text()
    assert [line for line in ("one", "two", "little") if line in log_file.read_text()] == ["two"]
    said = (tmp_path / "other").read_text().splitlines()
    assert [line.partition("] ")[2] for line in said] == ["[API] four", "five"]
