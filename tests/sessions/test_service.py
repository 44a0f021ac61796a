"""Sessions on a real database: enrolled, verified, resumed, ended."""

import numpy as np
from sqlalchemy import text

from app.sessions.service import Kind
from tests.db_server import normalised
from tests.enrolment.drawn import THRESHOLD, axis, between
from tests.sessions.studio import show


def views(person: int, count: int, spread: float = 0.4 * THRESHOLD) -> list[np.ndarray]:
    """So many views of one person, each at that distance from what is common to them."""
    rng = np.random.default_rng(person)
    middle = axis(person)
    found = []
    for _ in range(count):
        aside = rng.normal(size=8)
        aside[person] = 0.0
        found.append(between(middle, normalised(aside[None])[0], spread))
    return found


def test_five_views_become_five_templates(studio, office):
    stream = studio.stream("Ana")
    greeting = stream.greeting()
    assert (greeting["type"], greeting["kind"], greeting["person"]) == ("ready", "enrol", "Ana")
    answers = show(stream, *views(0, 7))
    result = answers[-1]["result"]
    assert (result["outcome"], result["templates"], result["new_person"]) == ("enrolled", 5, True)
    assert office.persons.get("people", "Ana").faces == 5
    info = studio.sessions.read(stream.id)
    assert (info.state, info.progress) == ("succeeded", {"templates": 5, "wanted": 5})
    assert info.person_id == office.persons.get("people", "Ana").id
    assert _count(studio, "face_session_frames") == 0
    assert office.events() == ["session.created", *["face.enrolled"] * 5, "session.succeeded"]


def test_verification_accepts_the_person_and_rejects_another(studio, office):
    office.enrol("Ana", *views(0, 3))
    right = show(studio.stream("Ana", Kind.VERIFY), *views(0, 10, spread=0.3 * THRESHOLD)[3:])
    assert right[-1]["result"] | {"distance": 0, "confidence": 0} == {
        "outcome": "verified",
        "verified": True,
        "reason": None,
        "good_frames": 3,
        "distance": 0,
        "threshold": right[-1]["result"]["threshold"],
        "confidence": 0,
        "false_match_rate": 0.001,
        "person": "Ana",
    }
    stream = studio.stream("Ana", Kind.VERIFY)
    wrong = show(stream, *views(1, 30))
    assert (wrong[-1]["result"]["verified"], wrong[-1]["result"]["reason"]) == (False, "another_person")
    assert studio.sessions.read(stream.id).state == "failed"


def _count(studio, table: str) -> int:
    with studio.database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))
