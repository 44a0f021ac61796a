"""Persons: names that hide nobody, windows of validity by the database's clock, metadata."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.db.persons import ensure_persons
from app.enrolment.attributes import check_metadata
from app.enrolment.persons import PersonChange, PersonDetails
from app.errors import InvalidName, InvalidValidity, MetadataTooLarge, PersonExists, PersonNotFound
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis, between


def now(office: Office) -> datetime:
    """By the clock that counts."""
    with office.database.transaction() as session:
        return session.scalar(text("SELECT clock_timestamp()"))


def test_a_person_is_found_by_label_then_external_id_then_id(office: Office) -> None:
    ana = office.persons.create("people", "Ana", None, PersonDetails(external_id="  R-17  "))
    assert ana.external_id == "R-17"
    for name in ("Ana", "R-17", str(ana.id), str(ana.id).upper()):
        assert office.persons.get("people", name).id == ana.id
    with pytest.raises(PersonNotFound):
        office.persons.get("others", "R-17")
    assert [info.label for info in listed(office, external_id="R-17")] == ["Ana"]
    assert listed(office, external_id="R-1") == []
    office.enrol("R-17", axis(0))
    assert office.persons.get("people", "Ana").faces == 1


def listed(office: Office, **wanted):
    return [person.info for person in office.directory.list("people", limit=10, **wanted).items]


def test_no_name_may_hide_another_person(office: Office) -> None:
    ana = office.persons.create("people", "Ana", None, PersonDetails(external_id="R-17"))
    bor = office.persons.create("people", "Bor", None)
    for label, external_id in (("Ana", None), ("R-17", None), (str(ana.id), None), ("new", "Ana"), ("new", "R-17")):
        with pytest.raises(PersonExists):
            office.persons.create("people", label, None, PersonDetails(external_id=external_id))
    for change in (
        PersonChange(label="R-17"),
        PersonChange(label=str(ana.id)),
        PersonChange(external_id="Ana"),
        PersonChange(external_id="R-17"),
        PersonChange(external_id=str(ana.id)),
    ):
        with pytest.raises(PersonExists):
            office.persons.update("people", "Bor", change)
    assert office.persons.get("people", "Bor") == bor
    office.persons.create("others", "Ana", None, PersonDetails(external_id="R-17"))  # another tenant's names are free
    with office.database.transaction() as session:
        domain_id = session.scalar(text("SELECT id FROM domains WHERE name = 'people'"))
        made, new = ensure_persons(session, domain_id, ["R-17", str(bor.id), "Cene"])
    assert (set(made), new) == ({"Cene"}, 1)


def test_a_person_may_be_called_the_same_in_every_way(office: Office) -> None:
    person = office.persons.create("people", "R-17", None, PersonDetails(external_id="R-17"))
    changed = office.persons.update("people", "R-17", PersonChange(label="Ana", external_id=str(person.id)))
    assert (changed.label, changed.display_name, changed.external_id) == ("Ana", "Ana", str(person.id))
    assert office.persons.update("people", "Ana", PersonChange(external_id=None)).external_id is None


def test_an_external_id_is_a_name(office: Office) -> None:
    for bad in ("", " ", "a\0b", "\ud800", "x" * 201):
        with pytest.raises(InvalidName):
            office.persons.create("people", "Ana", None, PersonDetails(external_id=bad))
    assert listed(office) == []


def test_a_change_is_done_as_a_whole_or_not_at_all(office: Office) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    before = office.persons.create("people", "Ana", None, PersonDetails(valid_from=noon, metadata={"room": 12}))
    with pytest.raises(InvalidValidity):  # with what is stored
        office.persons.update("people", "Ana", PersonChange(label="Bor", valid_until=noon, metadata={}))
    assert office.persons.get("people", "Ana") == before
    changed = office.persons.update("people", "Ana", PersonChange(metadata={"floor": {"n": 1.5}}))
    assert (changed.metadata, changed.valid_from) == ({"floor": {"n": 1.5}}, noon)
    assert office.persons.update("people", "Ana", PersonChange(metadata=None, valid_from=None)).metadata == {}


def test_the_database_has_the_last_word_on_the_size_of_metadata(office: Office, monkeypatch) -> None:
    office.persons.create("people", "Ana", None)
    monkeypatch.setattr("app.enrolment.persons.check_metadata", lambda metadata: None)
    with pytest.raises(MetadataTooLarge):
        office.persons.update("people", "Ana", PersonChange(metadata={"a": "x" * 20_000}))


def test_what_is_just_short_enough_here_is_so_in_the_database(office: Office) -> None:
    """Both count the same bytes: of letters, of escapes, of numbers."""
    for metadata in (
        {"a": "x" * (16_384 - 9)},
        {"a": "😀" * 4_093 + "xxx"},
        {"a": "\n" * 8_187 + "x"},
        {"a": "\x01" * 2_729 + "x"},
        {"ab": [10**300] * 53, "c": [0.1, -1e-7, 1e15, True, None], "d": {}},
    ):
        check_metadata(metadata)
        person = office.persons.create("people", uuid4().hex, None, PersonDetails(metadata=metadata))
        assert person.metadata == metadata
    # What PostgreSQL writes with all its digits is no float any more, but the same number.
    person = office.persons.create("people", "digits", None, PersonDetails(metadata={"a": [1e300] * 53}))
    assert person.metadata == {"a": [10**300] * 53}


@pytest.mark.parametrize("index", [False, True])
def test_outside_of_the_window_a_person_is_no_candidate(office: Office, index: bool) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", between(axis(0), axis(1), 0.3))
    moment = now(office)
    second = timedelta(seconds=1)
    zone = timezone(timedelta(hours=14))
    for window, valid in (
        ((None, None), True),
        ((moment - second, None), True),
        ((moment, None), True),  # from that very moment on
        ((None, moment), False),  # and no longer at that very moment
        ((None, moment - second), False),
        ((moment + 3600 * second, None), False),
        ((moment - second, moment + 3600 * second), True),
        ((moment.astimezone(zone) - second, None), True),
        ((None, moment.astimezone(zone) + 3600 * second), True),
        ((None, moment.astimezone(zone)), False),
        ((datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)), True),
        ((None, datetime.min.replace(tzinfo=UTC)), False),
        ((datetime.max.replace(tzinfo=UTC), None), False),
    ):
        info = office.persons.update("people", "Ana", PersonChange(valid_from=window[0], valid_until=window[1]))
        assert (info.valid_from, info.valid_until, info.valid) == (*window, valid)
        assert office.labels(axis(0), index=index) == (["Ana", "Bor"] if valid else ["Bor"])


def test_validity_is_decided_when_the_search_begins(office: Office) -> None:
    """Not when its transaction did: a long one does not keep anybody valid."""
    office.enrol("Ana", axis(0))
    office.persons.update("people", "Ana", PersonChange(valid_until=now(office) + timedelta(seconds=3)))
    assert office.labels(axis(0)) == ["Ana"]
    with office.database.transaction() as session:
        session.execute(text("SELECT pg_sleep(3.1)"))
        from app.db.domains import load_gallery
        from app.db.vectors import SearchOptions, search

        options = SearchOptions(5, 0.07, 0.005, 10_000, 40)
        [hits] = search(session, load_gallery(session, "people"), [axis(0)], options)
    assert hits.persons == ()
    assert not office.persons.get("people", "Ana").valid


@pytest.mark.parametrize("index", [False, True])
def test_those_who_are_not_valid_push_nobody_out(office: Office, index: bool) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    for n in range(30):
        office.enrol(f"gone {n}", between(axis(0), axis(1), 0.01 + n / 1000))
        office.persons.update("people", f"gone {n}", PersonChange(valid_until=past))
    office.enrol("Ana", between(axis(0), axis(1), 0.06))
    office.enrol("Bor", between(axis(0), axis(1), 0.9))
    assert office.labels(axis(0), index=index, top_k=2) == ["Ana", "Bor"]


def test_every_change_leaves_an_event(office: Office) -> None:
    office.persons.create("people", "Ana", None)
    office.persons.update("people", "Ana", PersonChange(metadata={"a": 1}))
    office.persons.update("people", "Ana", PersonChange())  # no change
    face = office.enrol("Bor", axis(0)).outcomes[0].face
    office.faces.delete("people", "Bor", str(face.id))
    assert office.events() == ["person.created", "person.changed", "face.enrolled", "face.deleted"]
