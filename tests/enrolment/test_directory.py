"""Lists of persons: found as people type, in pages, each with what its faces are worth."""

import pytest
from sqlalchemy import insert, text, update

from app.db.models import FaceEmbedding, Person
from app.enrolment.directory import PersonDirectory
from app.enrolment.images import ImageStore
from app.enrolment.persons import PersonChange, PersonDetails
from app.enrolment.quality import Grade, QualityScale
from app.errors import DomainNotFound, InvalidName, InvalidRequest
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis

LABELS = ("Đorđe Šćepanović", "Živa-Šárka O'Neill", "Ødegård", "Łukasz 100%", "Straße", "ЂОРЂЕ", "田中 さくら", "a_b")


def labels(office: Office, q: str | None, **options) -> list[str]:
    return [person.info.label for person in office.directory.list("people", limit=50, contains=q, **options).items]


@pytest.fixture
def people(office: Office) -> Office:
    for label in LABELS:
        office.persons.create("people", label, None)
    office.persons.create("people", "member-17", "José Ángel", PersonDetails(external_id="R-4711/ß"))
    office.persons.create("others", "Ana", None)
    return office


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("scepan", "Đorđe Šćepanović"),
        ("DORDE", "Đorđe Šćepanović"),
        ("đorđe š", "Đorđe Šćepanović"),
        ("ziva-sarka o'n", "Živa-Šárka O'Neill"),
        ("S\u030ca\u0301rka", "Živa-Šárka O'Neill"),
        ("ødeg", "Ødegård"),
        ("odegard", "Ødegård"),
        ("lukasz", "Łukasz 100%"),
        ("100%", "Łukasz 100%"),
        ("100\uff05", "Łukasz 100%"),
        ("STRASSE", "Straße"),
        ("ђорђе", "ЂОРЂЕ"),
        ("さくら", "田中 さくら"),
        ("a_b", "a_b"),
        ("jose angel", "member-17"),
        ("MEMBER", "member-17"),
        ("r-4711/SS", "member-17"),
    ],
)
def test_a_person_is_found_as_people_type(people: Office, typed: str, label: str) -> None:
    assert labels(people, typed) == [label]


def test_no_character_stands_for_another_and_no_name_runs_into_the_next(people: Office) -> None:
    for typed in ("%", "_b%", "17jose", "17%jose", "\\", "Ana"):
        assert labels(people, typed) == (["Łukasz 100%"] if typed == "%" else []), typed


def test_what_is_searched_follows_every_change(people: Office) -> None:
    people.persons.update("people", "member-17", PersonChange(display_name="Šime"))
    assert labels(people, "jose") == []
    assert labels(people, "sime") == ["member-17"]
    people.persons.update("people", "member-17", PersonChange(label="Niko", external_id=None))
    assert labels(people, "4711") == labels(people, "member") == []
    assert labels(people, "niko") == ["Niko"]


def test_pages_hold_everybody_once_and_the_first_says_how_many(people: Office) -> None:
    for q, wanted in ((None, len(LABELS) + 1), ("o", None)):
        seen, cursor, totals = [], None, []
        while True:
            page = people.directory.list("people", limit=2, cursor=cursor, contains=q)
            seen += [person.info.label for person in page.items]
            totals.append(page.total)
            if (cursor := page.next_cursor) is None:
                break
        assert len(seen) == len(set(seen)) == totals[0]
        assert seen == sorted(seen)
        assert set(totals[1:]) <= {None}
        assert wanted in (None, totals[0])


def test_a_wrong_question_is_refused(people: Office) -> None:
    with pytest.raises(DomainNotFound):
        people.directory.list("nowhere", limit=1)
    with pytest.raises(InvalidRequest):
        people.directory.list("people", limit=1, cursor="x")
    with pytest.raises(InvalidName):
        people.directory.list("people", limit=1, contains="a\0")


def test_a_search_reads_a_bounded_number_of_rows_of_other_tables(office: Office) -> None:
    """Of 10,000 persons: names are looked through, and what belongs to a person is read for those of the page alone."""
    with office.database.transaction() as session:
        domain_id = session.scalar(text("SELECT id FROM domains WHERE name = 'people'"))
        rows = [{"domain_id": domain_id, "label": f"{n:05}", "display_name": f"Živa {n % 97}"} for n in range(10_000)]
        session.execute(insert(Person), rows)
        query = office.directory._select(session.get_one(_domain(), domain_id), [], None).limit(51)
        plan = session.execute(
            text(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {query.compile(session.connection(), compile_kwargs={'literal_binds': True})}"
            )
        ).scalar_one()
    page = office.directory.list("people", limit=50, contains="ziva 7")
    assert (len(page.items), page.total) == (50, sum(str(n % 97)[0] == "7" for n in range(10_000)))
    scanned = list(_scans(plan[0]["Plan"]))
    assert {loops for table, loops in scanned if table != "persons"} <= {51}
    assert any(table == "persons" for table, _ in scanned)


def _domain():
    from app.db.models import Domain

    return Domain


def _scans(node: dict):
    if "Relation Name" in node:
        yield node["Relation Name"], node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from _scans(child)


SCALE = QualityScale(50, 10.0)


@pytest.mark.parametrize(
    ("size_px", "sharpness", "grade"),
    [
        (0, 50.0, Grade.UNKNOWN),
        (120, 0.0, Grade.UNKNOWN),
        (49, 500.0, Grade.POOR),
        (500, 9.9, Grade.POOR),
        (50, 10.0, Grade.FAIR),
        (99, 500.0, Grade.FAIR),
        (500, 19.9, Grade.FAIR),
        (100, 20.0, Grade.GOOD),
    ],
)
def test_what_a_face_is_worth_is_the_same_in_both_lists(office: Office, size_px, sharpness, grade) -> None:
    office.enrol("Ana", axis(0))
    with office.database.transaction() as session:
        session.execute(update(FaceEmbedding).values(box_w=size_px + 7, box_h=size_px, sharpness=sharpness))
    assert SCALE.grade(size_px, sharpness) is grade
    [listed] = office.directory.list("people", limit=1).items
    [face] = office.faces.list("people", "Ana", limit=1, cursor=None).items
    assert (listed.quality, face.grade) == (grade, grade)


def test_the_best_face_counts_and_without_one_there_is_nothing_to_say(office: Office) -> None:
    office.persons.create("people", "Bor", None)
    office.enrol("Ana", axis(0), axis(1))
    with office.database.transaction() as session:
        one = session.scalars(text("SELECT id FROM face_embeddings ORDER BY id LIMIT 1")).one()
        session.execute(update(FaceEmbedding).where(FaceEmbedding.id == one).values(sharpness=1.0))
    ana, bor = office.directory.list("people", limit=2).items
    assert (ana.quality, ana.info.faces, bor.quality, bor.info.faces) == (Grade.GOOD, 2, None, 0)


def test_without_the_model_nothing_can_be_said_of_a_face(office: Office, tmp_path) -> None:
    from app.vision.packs import PackStore

    office.enrol("Ana", axis(0))
    directory = PersonDirectory(
        office.directory._settings, office.database, PackStore(tmp_path), ImageStore(tmp_path, enabled=False)
    )
    assert [person.quality for person in directory.list("people", limit=1).items] == [Grade.UNKNOWN]
