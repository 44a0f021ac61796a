""" "Not this person": the wrong match stays away, the right person is found, nobody is hidden from their own photos."""

import numpy as np
import pytest
from sqlalchemy import text

from app.enrolment import rejections
from app.errors import (
    ContractMismatch,
    FaceEnrolled,
    InvalidRequest,
    NoFaceFound,
    PersonNotFound,
    RejectionNotFound,
    SamePerson,
    SeveralFaces,
    TooManyRejections,
)
from tests.db_server import contract
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis, between, draw

# Somebody who looks like Ana, 0.04 from her photo, where 0.07 is a match.
LOOK_ALIKE = between(axis(0), axis(1), 0.04)


@pytest.mark.parametrize("index", [False, True])
def test_a_rejected_match_does_not_come_back_and_the_right_person_is_found(office: Office, index: bool) -> None:
    office.enrol("Ana", axis(0))
    assert office.labels(LOOK_ALIKE, index=index) == ["Ana"]
    _, new = office.reject("Ana", draw(LOOK_ALIKE))
    assert new
    assert office.labels(LOOK_ALIKE, index=index) == []
    # Another photo of the look-alike; and other photos of Ana.
    assert office.labels(between(LOOK_ALIKE, axis(2), 0.01), index=index) == []
    for distance in (0.0, 0.005, 0.03):
        assert office.labels(between(axis(0), axis(3), distance), index=index) == ["Ana"]
    assert office.labels(axis(4), index=index) == ["Ana"]  # far from all: a candidate as before


@pytest.mark.parametrize("index", [False, True])
def test_the_next_ones_decide(office: Office, index: bool) -> None:
    office.enrol("Ana", between(LOOK_ALIKE, axis(2), 0.01))
    office.enrol("Bor", between(LOOK_ALIKE, axis(3), 0.012))
    office.enrol("Cene", between(LOOK_ALIKE, axis(4), 0.05))
    office.enrol("Dana", axis(7))
    assert office.labels(LOOK_ALIKE, index=index, top_k=2) == ["Ana", "Bor"]
    office.reject("Ana", draw(LOOK_ALIKE))
    assert office.labels(LOOK_ALIKE, index=index, top_k=2) == ["Bor", "Cene"]
    office.reject("Bor", draw(LOOK_ALIKE))
    assert office.labels(LOOK_ALIKE, index=index, top_k=2) == ["Cene", "Dana"]
    office.reject("Cene", draw(LOOK_ALIKE))
    assert office.labels(LOOK_ALIKE, index=index, top_k=2) == ["Dana"]


@pytest.mark.parametrize("index", [False, True])
def test_however_many_are_rejected_those_behind_them_are_found(office: Office, index: bool) -> None:
    for n in range(40):
        office.enrol(f"r{n}", between(LOOK_ALIKE, axis(2), 0.01 + n / 1000), salt=n)
        office.reject(f"r{n}", draw(LOOK_ALIKE))
    office.enrol("Ana", between(LOOK_ALIKE, axis(3), 0.06))
    office.enrol("Bor", axis(7))
    assert office.labels(LOOK_ALIKE, index=index, top_k=2) == ["Ana", "Bor"]
    assert office.labels(LOOK_ALIKE, index=index, top_k=1) == ["Ana"]
    assert len(office.labels(axis(7), index=index, top_k=50)) == 42


def test_a_rejection_beyond_the_threshold_does_nothing(office: Office) -> None:
    office.enrol("Ana", axis(0))
    office.reject("Ana", draw(axis(1)))
    probe = between(axis(0), axis(1), 0.4)  # nearer to it than to Ana, and far from both
    assert office.labels(probe) == ["Ana"]
    assert [hit.label for hit in office.found(probe, threshold=0.45)] == []
    assert office.labels(between(axis(0), axis(1), 0.06)) == ["Ana"]


def test_each_person_has_rejections_of_their_own(office: Office) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", between(axis(0), axis(2), 0.01))
    office.reject("Ana", draw(LOOK_ALIKE), actual="Bor")
    assert office.labels(LOOK_ALIKE) == ["Bor"]
    office.persons.create("others", "Ana", None)
    assert office.rejections.list("others", "Ana", limit=10, cursor=None).items == []


def test_a_photo_that_is_enrolled_cannot_be_rejected_in_whatever_encoding(office: Office) -> None:
    office.enrol("Ana", axis(0))
    for picture in (draw(axis(0)), draw(axis(0), salt=1), draw(between(axis(0), axis(1), 0.0005))):
        with pytest.raises(FaceEnrolled, match="delete that face"):
            office.reject("Ana", picture)
    # Another face of such a photo can.
    office.reject("Ana", draw(axis(0), LOOK_ALIKE, sizes=[300, 40]), face=1)
    assert office.labels(LOOK_ALIKE) == []
    assert office.labels(axis(0)) == ["Ana"]


def test_who_is_enrolled_with_a_rejected_photo_is_found_by_it_again(office: Office) -> None:
    """What was said last counts."""
    office.enrol("Ana", axis(0))
    office.reject("Ana", draw(LOOK_ALIKE))
    office.enrol("Ana", LOOK_ALIKE)
    assert office.labels(LOOK_ALIKE) == ["Ana"]


def test_the_face_is_the_main_one_or_that_of_the_number(office: Office) -> None:
    office.enrol("Ana", axis(0))
    of_several = draw(axis(2), LOOK_ALIKE, sizes=[100, 99])
    with pytest.raises(SeveralFaces):
        office.reject("Ana", of_several)
    with pytest.raises(NoFaceFound, match="numbered from 0"):
        office.reject("Ana", of_several, face=2)
    with pytest.raises(NoFaceFound):
        office.reject("Ana", draw())
    info, _ = office.reject("Ana", of_several, face=1)
    assert info.face == 1
    assert office.labels(LOOK_ALIKE) == []
    second, new = office.reject("Ana", of_several, face=0)  # two faces of one picture
    assert (second.face, new) == (0, True)


def test_said_again_it_is_the_same_rejection(office: Office) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", axis(5))
    first, _ = office.reject("Ana", draw(LOOK_ALIKE))
    for picture in (draw(LOOK_ALIKE), draw(LOOK_ALIKE, salt=1), draw(between(LOOK_ALIKE, axis(6), 0.0005))):
        assert office.reject("Ana", picture) == (first, False)
    again, new = office.reject("Ana", draw(LOOK_ALIKE), actual="Bor")
    assert (again.id, again.actual.label, new) == (first.id, "Bor", False)
    assert office.reject("Ana", draw(LOOK_ALIKE))[0].actual.label == "Bor"  # not unsaid
    assert office.events()[-2:] == ["rejection.added", "rejection.changed"]


def test_whose_it_is_has_to_be_somebody_else_of_the_domain(office: Office) -> None:
    ana = office.enrol("Ana", axis(0)).person
    office.persons.create("others", "Bor", None)
    for actual, error in (("Bor", PersonNotFound), ("nobody", PersonNotFound), (str(ana.id), SamePerson)):
        with pytest.raises(error):
            office.reject("Ana", draw(LOOK_ALIKE), actual=actual)
    with pytest.raises(PersonNotFound):
        office.reject("nobody", draw(LOOK_ALIKE))
    assert office.labels(LOOK_ALIKE) == ["Ana"]


def test_faces_of_another_model_are_refused(office: Office) -> None:
    office.enrol("Ana", axis(0))
    with pytest.raises(ContractMismatch):
        office.reject("Ana", draw(np.eye(9, dtype=np.float32)[1], contract=contract(9)))


def test_rejections_are_bounded(office: Office, monkeypatch) -> None:
    monkeypatch.setattr(rejections, "MAX_REJECTIONS_PER_PERSON", 2)
    office.enrol("Ana", axis(0))
    office.reject("Ana", draw(axis(1)))
    office.reject("Ana", draw(axis(2)))
    with pytest.raises(TooManyRejections):
        office.reject("Ana", draw(axis(3)))
    assert office.reject("Ana", draw(axis(2)))[1] is False


def test_rejections_are_listed_in_pages_and_deleted(office: Office) -> None:
    office.enrol("Ana", axis(0))
    made = [office.reject("Ana", draw(face))[0] for face in (LOOK_ALIKE, axis(2), axis(3))]
    first = office.rejections.list("people", "Ana", limit=2, cursor=None)
    rest = office.rejections.list("people", "Ana", limit=2, cursor=first.next_cursor)
    assert [*first.items, *rest.items] == made
    assert rest.next_cursor is None
    with pytest.raises(InvalidRequest):
        office.rejections.list("people", "Ana", limit=2, cursor="x")
    office.enrol("Bor", axis(6))
    for label, wanted in (("Bor", str(made[0].id)), ("Ana", "x"), ("Ana", str(office.persons.get("people", "Ana").id))):
        with pytest.raises(RejectionNotFound):
            office.rejections.delete("people", label, wanted)
    office.rejections.delete("people", "Ana", str(made[0].id))
    assert office.labels(LOOK_ALIKE)[0] == "Ana"
    assert office.events()[-1] == "rejection.deleted"


def test_who_is_deleted_takes_along_what_was_said_of_their_face(office: Office) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", axis(5))
    office.reject("Ana", draw(LOOK_ALIKE), actual="Bor")
    office.reject("Bor", draw(axis(6)))
    assert office.erasure.erase("people", "Bor").counts["rejections"] == 2
    with office.database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM face_rejections")) == 0
