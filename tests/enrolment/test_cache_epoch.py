"""What was extracted for a domain before is out of date after some changes of it, and only after those."""

from dataclasses import dataclass

import pytest
from sqlalchemy import text

from app.db.domains import cache_epochs, load_gallery
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis, draw


@dataclass
class Watched:
    office: Office

    def epoch(self, domain: str = "people") -> int:
        with self.office.database.transaction() as session:
            gallery = load_gallery(session, domain)
            assert cache_epochs(session, [gallery.uid]) == {gallery.uid: gallery.cache_epoch}
            return gallery.cache_epoch

    def rises(self, act) -> bool:
        before, others = self.epoch(), self.epoch("others")
        act()
        assert self.epoch("others") == others
        return self.epoch() > before

    def age(self) -> None:
        """As if what is enrolled had been so for a while."""
        with self.office.database.maintenance() as connection:
            connection.execute(text("UPDATE face_embeddings SET created_at = created_at - interval '61 s'"))


@pytest.fixture
def watched(office: Office) -> Watched:
    return Watched(office)


def test_enrolling_persons_one_picture_after_the_other_leaves_it(watched: Watched) -> None:
    office = watched.office
    assert not watched.rises(lambda: office.enrol("p0", axis(0), axis(1)))
    assert not watched.rises(lambda: office.enrol("p0", axis(2)))
    assert not watched.rises(lambda: office.enrol("p1", axis(3)))


def test_enrolling_a_person_anew_raises_it_once(watched: Watched) -> None:
    office = watched.office
    office.enrol("p0", axis(0))
    watched.age()
    before = watched.epoch()
    office.enrol("p0", axis(1), axis(2))
    office.enrol("p0", axis(3))
    assert watched.epoch() == before + 1


def test_a_picture_that_is_not_enrolled_leaves_it(watched: Watched) -> None:
    office = watched.office
    office.enrol("p0", axis(0))
    watched.age()
    assert not watched.rises(lambda: office.enrol("p0", axis(0)))


def test_deleting_a_face_or_a_person_raises_it(watched: Watched) -> None:
    office = watched.office
    done = office.enrol("p0", axis(0), axis(1))
    face = done.outcomes[0].face
    assert face is not None
    assert watched.rises(lambda: office.faces.delete("people", "p0", str(face.id)))
    assert watched.rises(lambda: office.erasure.erase("people", "p0"))


def test_what_changes_no_face_leaves_it(watched: Watched) -> None:
    office = watched.office
    office.enrol("p0", axis(0))
    office.enrol("p1", axis(1))
    assert not watched.rises(lambda: office.reject("p0", draw(axis(2))))


def test_merging_persons_raises_it(watched: Watched) -> None:
    office = watched.office
    office.enrol("p0", axis(0))
    office.enrol("p1", axis(1))
    assert watched.rises(lambda: office.merging.merge("people", "p0", "p1"))
