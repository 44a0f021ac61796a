"""Error rates of galleries in the database."""

import numpy as np
import pytest

from app.db.domains import create_domain
from app.deadline import NO_DEADLINE, Deadline
from app.error_rates import service as module
from app.error_rates.comparing import Templates
from app.error_rates.service import Effort, ErrorRateService, Size
from app.errors import DomainNotFound
from app.tenancy import Reach, acting
from app.vision.packs import PackStore
from tests.db_server import fill_gallery
from tests.error_rates.conftest import crowd
from tests.error_rates.oracle import expected


@pytest.fixture
def templates() -> Templates:
    return crowd(25, seed=4)


@pytest.fixture
def rates(database, models, templates) -> ErrorRateService:
    fill_gallery(database, "people", templates.vectors, templates.owners.tolist(), model="dlib")
    fill_gallery(database, "others", crowd(3, seed=9).vectors, model="dlib")
    return ErrorRateService(database, PackStore(models))


def test_the_rates_are_those_of_the_domains_templates_at_the_packs_threshold(rates, templates):
    found = rates.measure("people", deadline=NO_DEADLINE)
    assert (found.threshold, found.margin) == (0.07, 0.01)
    assert found.gallery == found.sample == Size(25, len(templates))
    assert found.complete
    at = expected(templates, 0.07, 0.01)
    current = found.verification.current
    assert (current.false_positive.errors, current.false_positive.trials) == at.fmr
    assert (current.false_negative.errors, current.false_negative.trials) == at.fnmr
    searches = found.identification.current
    assert (searches.false_positive.errors, searches.false_positive.trials) == at.fpir
    assert (searches.false_negative.errors, searches.false_negative.trials) == at.fnir
    other = rates.measure("people", threshold=0.25, deadline=NO_DEADLINE)
    at = expected(templates, 0.25, 0.01)
    assert (other.verification.current.false_positive.errors, other.identification.misnamed) == (at.fmr[0], at.misnamed)


def test_of_a_large_gallery_a_part_is_looked_at_and_it_says_which(rates, monkeypatch, templates):
    found = rates.measure("people", effort=Effort(templates=40, probes=10), deadline=NO_DEADLINE)
    assert found.sample.templates == 40
    assert found.sample.persons < 25
    assert (found.gallery, found.probes, found.complete) == (Size(25, len(templates)), 10, False)
    monkeypatch.setattr(module, "MAX_FLOATS", 8 * 20)
    monkeypatch.setattr(module, "MAX_COMPARISONS", 100)
    found = rates.measure("people", deadline=NO_DEADLINE)
    assert (found.sample.templates, found.probes) == (20, 5)


def test_progress_is_told(rates, templates):
    told = []
    rates.measure("people", deadline=NO_DEADLINE, tell=lambda done, of: told.append((done, of)))
    assert sum(done for done, _ in told) == len(templates)
    assert {of for _, of in told} == {len(templates)}


def test_an_empty_domain_has_no_rates_and_somebody_elses_is_not_there(rates, database):
    with database.transaction() as session:
        create_domain(session, "empty", model="dlib", contract="test:8:0", dimension=8)
    found = rates.measure("empty", deadline=Deadline.after(10))
    assert (found.gallery, found.sample, found.probes) == (Size(0, 0), Size(0, 0), 0)
    assert found.verification.current.false_positive.value is None
    assert found.verification.tradeoff.at_rate(0.1) is None
    assert np.sum(found.histograms.genuine) == 0
    with pytest.raises(DomainNotFound):
        rates.measure("nowhere", deadline=NO_DEADLINE)
    with acting(Reach("somebody", frozenset({"others"}))), pytest.raises(DomainNotFound):
        rates.measure("people", deadline=NO_DEADLINE)
