"""A warning where a new template is near to somebody else; it is enrolled all the same."""

from dataclasses import replace

import pytest

from app.db.domains import lock_domain
from app.enrolment.lookup import find_person
from app.enrolment.resemblance import Resemblance, resemblances
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import THRESHOLD, axis, between


def warned(office: Office, label: str, face) -> list[tuple[str, str, float]]:
    [outcome] = office.enrol(label, face).outcomes
    assert outcome.error is None
    return [(item.code.value, item.person.label, round(item.distance, 4)) for item in outcome.face.warnings]


def test_a_template_near_to_somebody_else_is_enrolled_with_a_warning(office: Office) -> None:
    assert warned(office, "Ana", axis(0)) == []
    assert warned(office, "Ana", between(axis(0), axis(1), 0.03)) == []
    assert warned(office, "Bor", between(axis(0), axis(2), 0.05)) == [("resembles_other", "Ana", 0.05)]
    assert warned(office, "Cene", axis(4)) == []
    # A photo of Ana's under the name of Cene.
    assert warned(office, "Cene", between(axis(0), axis(3), 0.02)) == [("closer_to_other", "Ana", 0.02)]
    # Far from everybody, and yet nearer to another than to the own ones.
    far = between(axis(5), axis(6), 0.3)
    assert warned(office, "Dana", axis(7)) == []
    assert warned(office, "Ema", axis(5)) == []
    assert warned(office, "Dana", far) == [("closer_to_other", "Ema", 0.3)]
    assert office.persons.get("people", "Cene").faces == 2


def test_another_tenants_persons_are_no_reason(office: Office) -> None:
    office.enrol("Ana", axis(0), domain="others")
    assert warned(office, "Bor", axis(0)) == []


@pytest.mark.parametrize("exact_max_rows", [10_000, 0])
def test_a_large_gallery_is_asked_through_its_index(office: Office, database_settings, exact_max_rows: int) -> None:
    office.enrol("Ana", axis(0))
    office.enrol("Bor", *(between(axis(1), axis(n), 0.05) for n in range(2, 7)))
    with office.database.transaction() as session:
        domain = lock_domain(session, find_domain_id(session))
        bor = find_person(session, domain.id, "Bor")
        settings = database_settings.model_copy(update={"search_exact_max_rows": exact_max_rows})
        probe = between(axis(0), axis(7), 0.04)
        [warning] = resemblances(session, settings, domain, bor, probe, own_distance=0.9, threshold=THRESHOLD)
        assert (warning.person.label, round(warning.distance, 4)) == ("Ana", 0.04)
        assert isinstance(replace(warning, distance=0.0), Resemblance)


def find_domain_id(session) -> int:
    from app.db.domains import find_domain

    return find_domain(session, "people").id
