"""Many pictures at a time, over made-up ones whose analysis the test holds back as it likes."""

import threading

import pytest
import structlog

from app.config import parse_settings
from app.embedder.batch import analyze_each, pictures_at_once
from app.errors import ClientGone, InvalidImage, PoolBusy
from app.vision.faces import Analysis

PATIENCE_S = 30


def seen(name: object) -> Analysis:
    return Analysis(1, 1, (), str(name), "contract")


def batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batch")]


def told(outcomes) -> list[tuple[int, str]]:
    return [(outcome.index, outcome.analysis.model if outcome.analysis else outcome.error.code) for outcome in outcomes]


def test_each_picture_has_an_outcome_of_its_own():
    def analyze(item, _deadline):
        if item == "bad":
            raise InvalidImage("no picture")
        if item == "worse":
            raise KeyError("secret")
        return seen(item)

    with structlog.testing.capture_logs() as lines:
        outcomes = list(analyze_each(["a", "bad", "worse", "b"], analyze, parallel=2, deadline_s=5))
    assert sorted(told(outcomes)) == [(0, "a"), (1, "invalid_image"), (2, "embedder_error"), (3, "b")]
    assert not any("secret" in str(outcome.error) for outcome in outcomes)
    assert [line["index"] for line in lines if line["log_level"] == "error"] == [2]


def test_nothing_to_do_is_no_outcome():
    assert list(analyze_each([], lambda *_: seen("never"), parallel=1, deadline_s=5)) == []


def test_outcomes_come_as_they_finish_and_only_so_many_are_in_work():
    first_may_end, both = threading.Event(), threading.Barrier(2)
    inside, most, lock = 0, 0, threading.Lock()

    def analyze(item, _deadline):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        if item < 2:
            both.wait(PATIENCE_S)  # two at once, or never
        if item == 0:
            assert first_may_end.wait(PATIENCE_S)
        with lock:
            inside -= 1
        return seen(item)

    outcomes = analyze_each(range(6), analyze, parallel=2, deadline_s=5)
    others = [next(outcomes).index for _ in range(5)]
    first_may_end.set()
    assert others == [1, 2, 3, 4, 5]
    assert told(outcomes) == [(0, "0")]
    assert most == 2


def test_a_full_queue_is_waited_for_until_the_pictures_deadline():
    refusals = {"soon": 3, "never": 10**9}

    def analyze(item, _deadline):
        if refusals[item]:
            refusals[item] -= 1
            raise PoolBusy("full")
        return seen(item)

    outcomes = list(analyze_each(["soon", "never"], analyze, parallel=2, deadline_s=5.0))
    assert sorted(told(outcomes)) == [(0, "soon"), (1, "pool_busy")]
    assert refusals["soon"] == 0


def test_a_picture_has_its_time_from_its_turn_on():
    left = []

    def analyze(item, deadline):
        left.append(deadline.at_s)
        return seen(item)

    list(analyze_each(range(3), analyze, parallel=1, deadline_s=5))
    assert left == sorted(set(left))


def test_closing_begins_no_other_picture_and_leaves_no_thread():
    begun, may_end = [], threading.Event()

    def analyze(item, _deadline):
        begun.append(item)
        if item:
            assert may_end.wait(PATIENCE_S)
        return seen(item)

    outcomes = analyze_each(range(50), analyze, parallel=2, deadline_s=5)
    assert next(outcomes).index == 0
    threading.Timer(0.1, may_end.set).start()
    outcomes.close()
    assert len(begun) <= 4
    assert batch_threads() == []


def test_a_batch_that_nobody_waits_for_ends():
    begun, gone = [], threading.Event()

    def analyze(item, _deadline):
        begun.append(item)
        if item == 1:
            gone.set()
        return seen(item)

    outcomes = analyze_each(range(10_000), analyze, parallel=1, deadline_s=5, abandoned=gone.is_set)
    with pytest.raises(ClientGone):
        list(outcomes)
    assert len(begun) < 10_000
    assert batch_threads() == []


def test_one_that_waits_for_a_place_in_the_queue_ends_too():
    asked = threading.Event()

    def analyze(_item, _deadline):
        asked.set()
        raise PoolBusy("full")

    with pytest.raises(ClientGone):
        list(analyze_each(range(4), analyze, parallel=2, deadline_s=10**6, abandoned=asked.is_set))
    assert batch_threads() == []


def test_log_lines_of_its_threads_have_the_request_id():
    def analyze(item, _deadline):
        return seen(structlog.contextvars.get_contextvars().get("request_id"))

    with structlog.contextvars.bound_contextvars(request_id="r1"):
        assert told(analyze_each(["a"], analyze, parallel=1, deadline_s=5)) == [(0, "r1")]


@pytest.mark.parametrize(("workers", "pictures", "wanted"), [(1, 9, 1), (2, 9, 2), (4, 3, 3), (64, 9, 9)])
def test_a_batch_keeps_all_workers_busy_and_no_more(workers, pictures, wanted):
    assert pictures_at_once(parse_settings(embedder_workers=workers), pictures) == wanted
