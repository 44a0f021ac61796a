"""Faces that are far from the others of their person: whatever the pages, and with bounded work for each."""

from itertools import pairwise

import numpy as np
import pytest

from app.enrolment import outliers
from app.enrolment.outliers import FAR_SHARE, OutlierPage, OutlierService, median_distances
from app.errors import DomainNotFound, InvalidRequest
from tests.db_server import random_units
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import THRESHOLD, axis, between

NEAR, FAR = 0.5 * THRESHOLD, 3 * THRESHOLD


def all_pages(service: OutlierService, limit: int) -> list[OutlierPage]:
    pages, cursor = [], None
    while True:
        pages.append(service.find("people", limit=limit, cursor=cursor))
        if (cursor := pages[-1].next_cursor) is None:
            return pages


@pytest.fixture
def album(office: Office) -> Office:
    """Ana has three faces and one of Bor's; Cene two that are nothing like each other; Bor and Drago are in order."""
    office.enrol("Ana", axis(0), between(axis(0), axis(1), NEAR), between(axis(0), axis(2), NEAR))
    office.enrol("Ana", between(axis(3), axis(4), NEAR), salt=1)
    office.enrol("Bor", axis(3), between(axis(3), axis(5), NEAR))
    office.enrol("Cene", axis(6), between(axis(6), axis(7), FAR))
    office.enrol("Drago", axis(7))
    office.persons.create("people", "nobody yet", None)
    office.enrol("Ana", axis(1), axis(2), domain="others")
    return office


@pytest.mark.parametrize("exact_max_rows", [10_000, 0])
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_face_of_somebody_else_is_found_and_whose_it_may_be(album, limit: int, exact_max_rows: int) -> None:
    service = album.outliers
    service._settings = service._settings.model_copy(update={"search_exact_max_rows": exact_max_rows})
    pages = all_pages(service, limit)
    assert sum(page.examined for page in pages) == 5
    assert {page.threshold for page in pages} == {FAR_SHARE * 0.07}
    for page in pages:
        assert all(one.distance >= other.distance for one, other in pairwise(page.outliers))
    found = [one for page in pages for one in page.outliers]
    assert sorted((one.person.label, one.templates) for one in found) == [("Ana", 4), ("Cene", 2), ("Cene", 2)]
    [ana] = [one for one in found if one.person.label == "Ana"]
    [*_, last] = album.faces.list("people", "Ana", limit=9, cursor=None).items
    assert ana.face_id == last.id
    assert ana.distance == pytest.approx(1.0, abs=0.1)
    assert ana.resembles is not None
    assert (ana.resembles.label, round(ana.resembles_distance, 4)) == ("Bor", round(NEAR, 4))
    assert {round(one.distance, 3) for one in found if one.person.label == "Cene"} == {round(FAR, 3)}


def test_as_long_as_most_are_the_persons_only_the_others_are_listed(office: Office) -> None:
    """Also where the others vouch for each other, and where there are as few as can be."""
    office.enrol("three", axis(0), between(axis(0), axis(1), NEAR))
    office.enrol("three", axis(3), salt=1)
    office.enrol("five", axis(4), between(axis(4), axis(5), NEAR), between(axis(4), axis(6), NEAR))
    office.enrol("five", axis(7), between(axis(7), axis(2), NEAR), salt=1)
    [page] = all_pages(office.outliers, 100)
    assert sorted(one.person.label for one in page.outliers) == ["five", "five", "three"]
    wrong = {one.face_id for one in page.outliers}
    for label, last in (("three", 1), ("five", 2)):
        assert {face.id for face in office.faces.list("people", label, limit=9, cursor=None).items[-last:]} <= wrong


def test_once_it_is_deleted_all_is_well(album) -> None:
    album.erasure.erase("people", "Cene")
    [page] = all_pages(album.outliers, 100)
    [wrong] = page.outliers
    album.faces.delete("people", "Ana", str(wrong.face_id))
    assert all_pages(album.outliers, 100)[0].outliers == []


def test_a_page_takes_fewer_who_have_many_faces_and_of_each_the_newest(album, monkeypatch) -> None:
    monkeypatch.setattr(outliers, "_TEMPLATES_PER_PAGE", 3)
    assert [page.examined for page in all_pages(album.outliers, 100)].count(5) == 0
    monkeypatch.setattr(outliers, "_TEMPLATES_PER_PERSON", 2)
    found = [one for page in all_pages(album.outliers, 100) for one in page.outliers if one.person.label == "Ana"]
    assert [one.templates for one in found] == [2, 2]


def test_too_many_are_cut_off_and_it_says_so(album, monkeypatch) -> None:
    monkeypatch.setattr(outliers, "_OUTLIERS_PER_PAGE", 1)
    [page] = all_pages(album.outliers, 100)
    assert page.truncated
    assert [one.person.label for one in page.outliers] == ["Ana"]


def test_an_empty_domain_has_none_and_a_wrong_question_is_refused(office: Office) -> None:
    [page] = all_pages(office.outliers, 10)
    assert (page.outliers, page.examined, page.next_cursor) == ([], 0, None)
    with pytest.raises(DomainNotFound):
        office.outliers.find("nowhere", limit=1, cursor=None)
    with pytest.raises(InvalidRequest):
        office.outliers.find("people", limit=1, cursor="x")


def test_the_median_is_that_of_the_others() -> None:
    for count in (2, 3, 6, 7):
        vectors = random_units(count, 16, seed=count)
        expected = [
            sorted(1.0 - float(vectors[n] @ other) for m, other in enumerate(vectors) if m != n)[(count - 2) // 2]
            for n in range(count)
        ]
        assert median_distances(vectors) == pytest.approx(np.array(expected), abs=1e-6)
