"""Two persons become one: faces, rejections, external id; and nothing is lost when two merge at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.db.domains import load_gallery
from app.db.job_files import NewFile, store_files
from app.db.jobs import enqueue
from app.enrolment.persons import PersonChange, PersonDetails
from app.errors import DomainNotFound, FacedexError, MergeWithItself, PersonNotFound
from app.tenancy import Reach, acting, carried
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis, between, draw


def counted(office: Office) -> tuple[int, int]:
    """Templates as the domain's row counts them, and as they are."""
    with office.database.transaction() as session:
        gallery = load_gallery(session, "people")
        query = text("SELECT count(*) FROM face_embeddings WHERE domain_id = :id")
        return gallery.template_count, session.scalar(query, {"id": gallery.domain_id})


def tombstones(office: Office) -> list[object]:
    with office.database.transaction() as session:
        query = "SELECT person_id FROM gallery_changes WHERE person_id NOT IN (SELECT id FROM persons) ORDER BY version"
        return list(session.scalars(text(query)))


def test_faces_move_and_the_other_person_is_gone(office: Office) -> None:
    office.enrol("Ana", axis(0), axis(1))
    other = office.enrol("A. Novak", axis(1), axis(2), axis(3)).person
    office.persons.update("people", "A. Novak", PersonChange(external_id="R-17", metadata={"of": "the other"}))
    office.persons.update("people", "Ana", PersonChange(metadata={"of": "Ana"}))
    merged = office.merging.merge("people", "Ana", str(other.id))
    assert (merged.moved, merged.dropped) == (2, 1)  # both have the picture of axis(1)
    person = office.persons.get("people", "Ana")
    assert merged.person == person
    assert (person.faces, person.external_id, person.metadata) == (4, "R-17", {"of": "Ana"})
    assert office.persons.get("people", "R-17").id == person.id
    for name in ("A. Novak", str(other.id)):
        with pytest.raises(PersonNotFound):
            office.persons.get("people", name)
    assert counted(office) == (4, 4)
    assert tombstones(office) == [other.id]
    assert [office.labels(axis(n))[0] for n in range(4)] == ["Ana"] * 4
    assert office.labels(axis(3), index=True)[0] == "Ana"
    assert office.events()[-1] == "person.merged"


def test_a_person_keeps_the_external_id_that_they_have(office: Office) -> None:
    office.persons.create("people", "Ana", None, PersonDetails(external_id="mine"))
    office.persons.create("people", "Bor", None, PersonDetails(external_id="theirs"))
    assert office.merging.merge("people", "Ana", "theirs").person.external_id == "mine"
    with pytest.raises(PersonNotFound):
        office.persons.get("people", "theirs")
    office.persons.create("people", "theirs", None)  # the name is free again


def import_files(office: Office, *labels: str) -> None:
    with office.database.transaction() as session:
        domain_id = load_gallery(session, "people").domain_id
        files = [NewFile(label, "1.jpg", b"sha", b"picture") for label in labels]
        store_files(session, enqueue(session, "import", domain_id=domain_id), domain_id, files)


def file_labels(office: Office) -> list[str]:
    with office.database.transaction() as session:
        return list(session.scalars(text("SELECT label FROM job_files ORDER BY position")))


def test_files_that_wait_are_the_remaining_persons_by_whatever_name(office: Office) -> None:
    office.persons.create("people", "Ana", None, PersonDetails(external_id="mine"))
    bor = office.persons.create("people", "Bor", None, PersonDetails(external_id="theirs"))
    cene = office.persons.create("people", "Cene", None)
    office.merging.merge("people", "Bor", "Cene")
    import_files(office, "Bor", "theirs", str(bor.id), str(cene.id), "mine", "Eva")
    office.merging.merge("people", "Ana", "Bor")
    assert file_labels(office) == ["Ana"] * 4 + ["mine", "Eva"]
    assert office.persons.get("people", "mine").label == "Ana"


@pytest.mark.parametrize("changed", ["other", None])
def test_files_that_wait_follow_a_person_whose_external_id_changes(office: Office, changed: str | None) -> None:
    office.persons.create("people", "Ana", None, PersonDetails(external_id="mine"))
    import_files(office, "mine", "Eva", "Ana")
    office.persons.update("people", "Ana", PersonChange(display_name="A."))
    assert file_labels(office) == ["mine", "Eva", "Ana"]
    office.persons.update("people", "Ana", PersonChange(label="Anna", external_id=changed))
    assert file_labels(office) == ["Anna", "Eva", "Anna"]


def test_what_cannot_be_merged_changes_nothing(office: Office) -> None:
    ana = office.enrol("Ana", axis(0)).person
    office.persons.create("others", "Bor", None)
    office.persons.update("people", "Ana", PersonChange(external_id="R-17"))
    before = office.persons.get("people", "Ana")
    for other, error in (
        ("Ana", MergeWithItself),
        ("R-17", MergeWithItself),
        (str(ana.id), MergeWithItself),
        ("Bor", PersonNotFound),  # another tenant's
        ("nobody", PersonNotFound),
    ):
        with pytest.raises(error):
            office.merging.merge("people", "Ana", other)
    with pytest.raises(PersonNotFound):
        office.merging.merge("people", "nobody", "Ana")
    assert office.persons.get("people", "Ana") == before
    assert tombstones(office) == []


def test_another_tenants_persons_cannot_be_merged_by_whoever_does_not_reach_them(office: Office) -> None:
    theirs = office.persons.create("others", "Bor", None)
    office.persons.create("people", "Ana", None)
    with office.database.transaction() as session:
        own = load_gallery(session, "people").domain_id
    with acting(Reach("key-1", frozenset({"people"}), frozenset({own}))):
        with pytest.raises(PersonNotFound):
            office.merging.merge("people", "Ana", str(theirs.id))
        with pytest.raises(DomainNotFound):
            office.merging.merge("others", "Bor", "Ana")
    assert office.persons.get("others", "Bor").id == theirs.id


def test_merged_twice_the_second_time_finds_nobody(office: Office) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", axis(1))
    office.merging.merge("people", "Ana", "Bor")
    with pytest.raises(PersonNotFound):
        office.merging.merge("people", "Ana", "Bor")
    assert counted(office) == (2, 2)


def test_of_two_merges_into_each_other_at_once_one_wins_and_no_face_is_lost(office: Office) -> None:
    for n in range(8):
        office.enrol(f"A{n}", axis(0), axis(1), salt=n)
        office.enrol(f"B{n}", axis(2), axis(3), salt=n)

        def merge(pair: tuple[str, str]) -> str:
            try:
                return office.merging.merge("people", *pair).person.label
            except FacedexError as error:
                return error.code

        with ThreadPoolExecutor(2) as threads:
            told = sorted(threads.map(carried(merge), [(f"A{n}", f"B{n}"), (f"B{n}", f"A{n}")]))
        assert told in ([f"A{n}", "person_not_found"], [f"B{n}", "person_not_found"])
        assert office.persons.get("people", told[0]).faces == 4
    assert counted(office) == (32, 32)


def test_rejections_move_and_what_contradicts_the_merge_is_forgotten(office: Office) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", axis(1))
    office.enrol("Cene", axis(2))
    stays, _ = office.reject("Ana", draw(axis(3)))
    moves, _ = office.reject("Bor", draw(axis(4)), actual="Cene")
    office.reject("Bor", draw(axis(3)))  # said of both
    office.reject("Ana", draw(axis(5)), actual="Bor")  # "not Ana, but Bor"
    office.reject("Bor", draw(axis(1), axis(0)), face=1)  # Ana's photo is not Bor's: so it was said
    of_cene, _ = office.reject("Cene", draw(axis(6)), actual="Bor")
    office.merging.merge("people", "Ana", "Bor")
    kept = office.rejections.list("people", "Ana", limit=10, cursor=None).items
    assert [info.id for info in kept] == [stays.id, moves.id]
    assert kept[1].actual is not None
    assert kept[1].actual.label == "Cene"
    [told] = office.rejections.list("people", "Cene", limit=10, cursor=None).items
    assert (told.id, told.actual.label) == (of_cene.id, "Ana")
    assert office.labels(between(axis(0), axis(7), 0.01))[0] == "Ana"
