"""What a recognition leaves in the audit."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from app.audit.log import AuditLog, Noted
from app.audit.spool import Spooled
from app.config import parse_settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.recognition.events import note_recognition
from app.recognition.matching import Candidate, Decision
from app.recognition.service import FallbackReason
from tests.recognition.test_answer import face_result, result

ANA, EVA = uuid4(), uuid4()


def candidate(person: UUID | None) -> Candidate:
    return Candidate(person, "secret label", "Secret Name", 0.1, 1, 0.1)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Without a database: events can be read in the spool."""
    settings = parse_settings(storage_dir=tmp_path, vector_db_enabled=False)
    return AuditLog(settings, Database(settings), CircuitBreaker())


def noted(log: AuditLog, of) -> Spooled:
    assert note_recognition(log, of) is Noted.SPOOLED
    (line,) = (log.spool._file).read_bytes().splitlines()
    assert b"ecret" not in line
    return Spooled.of_line(line)


def test_each_face_has_its_decision_and_the_persons_it_is_between(log: AuditLog) -> None:
    faces = (
        face_result(Decision.MATCH, candidate(ANA), candidate(EVA)),
        face_result(Decision.AMBIGUOUS, candidate(EVA), candidate(ANA), candidate(uuid4())),
        face_result(Decision.UNKNOWN, candidate(EVA)),
        face_result(Decision.MATCH, candidate(ANA)),
    )
    spooled = noted(log, result(*faces))
    assert spooled.domain == "people"
    assert spooled.event.persons == (str(ANA),)
    assert spooled.event.details == {
        "mode": "pgvector",
        "fallback": None,
        "model": "dlib",
        "threshold": 0.4,
        "faces": 4,
        "face_0": f"match {ANA}",
        "face_1": f"ambiguous {EVA} {ANA}",
        "face_2": "unknown",
        "face_3": f"match {ANA}",
    }


def test_a_dataset_has_decisions_and_no_ids(log: AuditLog) -> None:
    answered = replace(
        result(face_result(Decision.MATCH, candidate(None))),
        mode="pkl",
        fallback_reason=FallbackReason.DATABASE_UNAVAILABLE,
    )
    event = noted(log, answered).event
    assert event.persons == ()
    assert event.details["face_0"] == "match"
    assert event.details["fallback"] == "database_unavailable"


def test_a_crowd_fits_into_an_event(log: AuditLog) -> None:
    event = noted(log, result(*[face_result(Decision.MATCH, candidate(uuid4())) for _ in range(2000)])).event
    assert event.details["faces"] == 2000
    assert len(event.persons) == 500
    assert "face_16" not in event.details


def test_nobody_on_the_picture_is_an_event_too(log: AuditLog) -> None:
    assert noted(log, result()).event.details["faces"] == 0
