"""Persons who may be one: every pair once, whatever the pages, and bounded work for each."""

from itertools import pairwise

import pytest

from app.enrolment import duplicates
from app.enrolment.duplicates import DuplicateService
from app.enrolment.images import ImageStore
from app.errors import DomainNotFound, InvalidRequest
from app.vision.packs import PackStore
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis, between


def all_pages(service: DuplicateService, limit: int, threshold: float | None = None) -> list:
    pages, cursor = [], None
    while True:
        pages.append(service.find("people", limit=limit, cursor=cursor, threshold=threshold))
        if (cursor := pages[-1].next_cursor) is None:
            return pages


def pairs(pages: list) -> dict[frozenset[str], float]:
    listed = [
        (frozenset({pair.first.label, pair.second.label}), pair.distance) for page in pages for pair in page.pairs
    ]
    assert len(listed) == len(dict(listed)), "a pair stands on one page only"
    return {key: round(distance, 3) for key, distance in listed}


@pytest.fixture
def twins(office: Office) -> Office:
    """Ana is there twice, Bor three times; Cene once."""
    office.enrol("Ana", axis(0), axis(6))
    office.enrol("Ana again", axis(5), between(axis(0), axis(1), 0.02))
    office.enrol("Bor", axis(2))
    office.enrol("Bor 2", between(axis(2), axis(3), 0.03))
    office.enrol("Bor 3", between(axis(2), axis(4), 0.04))
    office.enrol("Cene", axis(7))
    office.enrol("Ana", axis(0), domain="others")
    return office


@pytest.mark.parametrize("exact_max_rows", [10_000, 0])
@pytest.mark.parametrize("limit", [1, 4, 100])
def test_pairs_within_the_threshold_are_found_once(
    twins: Office, database_settings, models, limit: int, exact_max_rows: int
) -> None:
    settings = database_settings.model_copy(update={"search_exact_max_rows": exact_max_rows})
    images = ImageStore(settings.images_dir, enabled=False)
    service = DuplicateService(settings, twins.database, PackStore(models), images)
    pages = all_pages(service, limit)
    assert sum(page.examined for page in pages) == 6
    assert {page.threshold for page in pages} == {0.07}
    expected = {
        frozenset({"Ana", "Ana again"}): 0.02,
        frozenset({"Bor", "Bor 2"}): 0.03,
        frozenset({"Bor", "Bor 3"}): 0.04,
    }
    found = pairs(pages)
    assert {key: found.get(key) for key in expected} == expected
    # 1 - 0.97 * 0.96, both going away from Bor into directions of their own.
    assert found.keys() - expected.keys() <= {frozenset({"Bor 2", "Bor 3"})}
    for page in pages:
        assert all(one.distance <= other.distance for one, other in pairwise(page.pairs))
    assert pairs(all_pages(service, limit, threshold=0.021)).keys() == {frozenset({"Ana", "Ana again"})}


def test_a_page_examines_fewer_who_have_many_faces(twins: Office, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "_TEMPLATES_PER_PAGE", 2)
    pages = all_pages(twins.duplicates, 100)
    assert max(page.examined for page in pages) <= 2
    assert sum(page.examined for page in pages) == 6
    assert frozenset({"Ana", "Ana again"}) in pairs(pages)
    monkeypatch.setattr(duplicates, "_COMPARISONS_PER_PAGE", 0)  # not even one: but each page gets on
    assert [page.examined for page in all_pages(twins.duplicates, 100)] == [1] * 6


def test_too_many_pairs_are_cut_off_and_it_says_so(twins: Office, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "_PAIRS_PER_PAGE", 2)
    [page] = all_pages(twins.duplicates, 100, threshold=2.0)
    assert page.truncated
    assert [round(pair.distance, 3) for pair in page.pairs] == [0.02, 0.03]


def test_an_empty_domain_has_none_and_a_wrong_question_is_refused(office: Office) -> None:
    [page] = all_pages(office.duplicates, 10)
    assert (page.pairs, page.examined, page.next_cursor) == ([], 0, None)
    office.persons.create("people", "without a face", None)
    assert all_pages(office.duplicates, 10)[0].examined == 1
    with pytest.raises(DomainNotFound):
        office.duplicates.find("nowhere", limit=1, cursor=None)
    for cursor in ("x", "WyJhIl0"):
        with pytest.raises(InvalidRequest):
            office.duplicates.find("people", limit=1, cursor=cursor)
