"""Who answers, and why: the chosen service and the fallback behind their common interface, the pool as a counter."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.deadline import Deadline
from app.errors import (
    ContractMismatch,
    DatabaseBusy,
    DatabaseTimeout,
    DatabaseUnavailable,
    DatasetUnavailable,
    DomainNotFound,
    DomainNotMigrated,
    PoolBusy,
)
from app.recognition.controller import RecognitionController
from app.recognition.matching import Candidate
from app.recognition.service import FaceHits, FallbackReason, RecognitionRequest
from app.vision.faces import Analysis, Box, Face, FaceQuality
from app.vision.packs import PackStore
from tests.packs import install_dlib


@dataclass
class Service:
    """A recognition service that knows the domains `names`, and goes wrong on demand."""

    mode: str
    names: tuple[str, ...] = ("people",)
    open_error: Exception | None = None
    search_error: Exception | None = None
    complete: bool = True
    opened: list[str] = field(default_factory=list)
    searched: int = 0

    def open(self, domain, deadline):
        self.opened.append(domain)
        if self.open_error is not None:
            raise self.open_error
        if domain not in (*self.names, "7"):
            raise DomainNotFound(f"none in {self.mode}")
        return Opened(self, "people" if domain == "7" else domain, self.complete)


@dataclass
class Opened:
    service: Service
    domain: str
    complete: bool
    key: None = None

    @contextmanager
    def searched(self, probes, query, deadline):
        self.service.searched += 1
        if self.service.search_error is not None:
            raise self.service.search_error
        candidate = Candidate(None, self.service.mode, self.service.mode, 0.01, 1, 0.01)
        yield [FaceHits((candidate,), "exact")] * len(probes)


class Pool:
    """Finds one face in every picture."""

    def __init__(self, contract: str) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self._contract = contract

    def analyze(self, image, *, epoch, deadline, request_id, client):
        self.asked += 1
        if self.error is not None:
            raise self.error
        embedding = np.ones(128, np.float32) / np.float32(np.sqrt(128))
        face = Face(Box(1, 2, 3, 4), 1.0, np.zeros((5, 2), np.float32), FaceQuality(3, 1.0), embedding)
        return Analysis(10, 10, (face,), "dlib", self._contract, {"decode": 1.0})


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> PackStore:
    return PackStore(install_dlib(tmp_path_factory.mktemp("models")).folder.parent)


@pytest.fixture
def pool(packs):
    return Pool(packs.get("dlib").manifest.contract.id)


@pytest.fixture
def chosen():
    return Service("pgvector")


@pytest.fixture
def fallback():
    return Service("pkl")


@pytest.fixture
def controller(chosen, fallback, pool, packs):
    return RecognitionController(chosen, fallback, pool, packs)


@pytest.fixture
def lines(monkeypatch):
    """What is logged: messages with their values."""
    logged: list[tuple[str, dict]] = []

    class Log:
        def info(self, message, **values):
            logged.append((message, values))

        warning = info

    monkeypatch.setattr("app.recognition.controller.log", Log())
    return logged


def ask(controller, domain="people"):
    return controller.recognize(RecognitionRequest(b"picture", domain, 5, None, Deadline.after(10), "r1", "tests"))


def test_the_chosen_service_answers(controller, fallback):
    found = ask(controller)
    assert (found.mode, found.fallback_reason, found.domain) == ("pgvector", None, "people")
    assert found.faces[0].candidates[0].label == "pgvector"
    assert fallback.opened == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatabaseUnavailable("gone"), FallbackReason.DATABASE_UNAVAILABLE),
        (DatabaseBusy("all in use"), FallbackReason.DATABASE_UNAVAILABLE),
        (DomainNotMigrated("on its way"), FallbackReason.NOT_MIGRATED),
        (DomainNotFound("none"), FallbackReason.NOT_MIGRATED),
    ],
)
@pytest.mark.parametrize("when", ["open_error", "search_error"])
def test_the_fallback_answers_with_the_reason_and_the_picture_is_analysed_once(
    controller, chosen, pool, lines, error, reason, when
):
    setattr(chosen, when, error)
    found = ask(controller)
    assert (found.mode, found.fallback_reason, found.domain) == ("pkl", reason, "people")
    assert found.faces[0].candidates[0].label == "pkl"
    assert pool.asked == 1
    assert ("[PKL] Using PKL for recognition, domain=people", {"reason": reason}) in lines


def test_a_domain_that_is_being_migrated_is_not_searched_in_the_database(controller, chosen):
    chosen.complete = False
    assert ask(controller).fallback_reason is FallbackReason.NOT_MIGRATED
    assert chosen.searched == 0


def test_a_domain_that_only_the_fallback_has_is_not_migrated(controller, fallback):
    fallback.names = ("people", "elsewhere")
    found = ask(controller, "elsewhere")
    assert (found.mode, found.fallback_reason) == ("pkl", FallbackReason.NOT_MIGRATED)


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("gone"), DomainNotMigrated("on its way"), DomainNotFound("none")]
)
def test_where_there_is_no_fallback_the_chosen_services_error_stands_and_no_worker_is_asked(
    controller, chosen, fallback, pool, error
):
    chosen.open_error, fallback.names = error, ()
    with pytest.raises(type(error)) as caught:
        ask(controller)
    assert caught.value is error
    assert pool.asked == 0


@pytest.mark.parametrize(
    ("when", "unusable"),
    [
        ("open_error", ContractMismatch("another model's")),
        ("search_error", ContractMismatch("another model's")),
        ("open_error", DatasetUnavailable("broken")),
    ],
)
def test_a_dataset_that_cannot_be_used_is_no_fallback(controller, chosen, fallback, when, unusable):
    setattr(fallback, when, unusable)
    for error in (DatabaseUnavailable("gone"), DomainNotMigrated("on its way")):
        chosen.open_error = error
        with pytest.raises(type(error)):
            ask(controller)
    chosen.open_error = DomainNotFound("none")  # the domain has nothing but its dataset: that is what is wrong
    with pytest.raises(type(unusable)):
        ask(controller)


@pytest.mark.parametrize("error", [DatabaseTimeout("slow"), ContractMismatch("another model's"), PoolBusy("busy")])
def test_other_errors_are_answers_and_no_reason_to_fall_back(controller, chosen, fallback, pool, error):
    if isinstance(error, PoolBusy):
        pool.error = error
    else:
        chosen.search_error = error
    with pytest.raises(type(error)):
        ask(controller)
    assert fallback.opened == []


def test_a_domain_that_was_called_by_its_id_is_found_by_name_while_the_database_is_away(controller, chosen, fallback):
    assert ask(controller, "7").domain == "people"
    chosen.open_error = DatabaseUnavailable("gone")
    found = ask(controller, "7")
    assert (found.mode, found.domain) == ("pkl", "people")
    assert fallback.opened == ["people"]


def test_without_a_fallback_nothing_else_is_tried(pool, packs, fallback):
    controller = RecognitionController(fallback, None, pool, packs)
    assert (ask(controller).mode, ask(controller).fallback_reason) == ("pkl", None)
    with pytest.raises(DomainNotFound):
        ask(controller, "elsewhere")
