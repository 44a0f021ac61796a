import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.deadline import Deadline
from app.embedder.fair_queue import QueueFull
from app.embedder.job import Job
from app.embedder.lanes import SHARE_ONE_AFTER, SHARE_ONE_EACH_S, Lanes
from app.embedder.waiting import Waiting

WAIT_MAX_S = 2.0
LATE_S = 1e9


@pytest.fixture(scope="module")
def connection():
    with socket.socket() as made:
        yield made


@pytest.fixture
def lanes():
    made = Lanes(4, 3, wait_max_s=WAIT_MAX_S)
    made.serve_from(-math.inf)
    return made


@pytest.fixture
def waiting(connection):
    def make(client="a", *, background=False, since_s=0.0, deadline_s=LATE_S):
        job = Job("0" * 64, 1, Deadline(deadline_s), "all", "", client, "", again=False, background=background)
        return Waiting(job, connection, since_s)

    return make


def pop(lanes, *, background_may=True, now_s=0.0, may_go=lambda _: True):
    return lanes.pop(may_go, background_may=background_may, now_s=now_s)


def test_the_background_comes_when_nobody_else_waits(lanes, waiting):
    behind, first, second = waiting(background=True), waiting(), waiting()
    for item in (behind, first, second):
        lanes.push(item)
    assert [pop(lanes) for _ in range(4)] == [first, second, behind, None]


def test_where_no_ordinary_job_may_go_the_background_does(lanes, waiting):
    behind, first = waiting(background=True), waiting()
    lanes.push(behind)
    lanes.push(first)
    assert pop(lanes, may_go=lambda item: item is not first) is behind
    assert pop(lanes) is first


def test_the_background_stays_where_it_may_not_go(lanes, waiting):
    behind = waiting(background=True)
    lanes.push(behind)
    assert pop(lanes, background_may=False, now_s=100.0) is None
    assert list(lanes) == [behind]


def test_each_lane_has_its_own_bound_and_is_fair_by_client(lanes, waiting):
    for _ in range(3):
        lanes.push(waiting("hog", background=True))
    with pytest.raises(QueueFull):
        lanes.push(waiting("hog", background=True))
    evicted = lanes.push(waiting("modest", background=True))
    assert evicted is not None
    assert evicted.job.client == "hog"
    for _ in range(4):
        lanes.push(waiting("hog"))
    with pytest.raises(QueueFull):
        lanes.push(waiting("hog"))
    assert (lanes.length("ordinary"), lanes.length("background"), len(lanes)) == (4, 3, 7)


def test_under_load_without_end_the_background_has_its_share(lanes, waiting):
    """Always somebody in both lanes, and no time passes: one job in so many is the background's."""
    lanes.push(waiting(background=True))
    given_to = []
    for _ in range(5 * (SHARE_ONE_AFTER + 1)):
        lanes.push(waiting())
        item = pop(lanes)
        given_to.append(item.job.background)
        if item.job.background:
            lanes.push(waiting(background=True))
            pop(lanes)  # the ordinary one that was passed over
    places = [place for place, background in enumerate(given_to) if background]
    assert places[0] == SHARE_ONE_AFTER
    assert len(places) >= 4


def test_a_job_in_the_background_that_has_waited_long_is_next_and_others_behind_it_are_not(lanes, waiting):
    for _ in range(2):
        lanes.push(waiting(background=True))
        lanes.push(waiting())
    assert not pop(lanes, now_s=SHARE_ONE_EACH_S / 2).job.background
    assert pop(lanes, now_s=SHARE_ONE_EACH_S).job.background
    assert not pop(lanes, now_s=1.9 * SHARE_ONE_EACH_S).job.background
    lanes.push(waiting())
    assert pop(lanes, now_s=2 * SHARE_ONE_EACH_S).job.background


def test_an_ordinary_job_waits_so_long_at_most_and_one_in_the_background_until_its_deadline(lanes, waiting):
    ordinary, behind = waiting(since_s=10.0), waiting(background=True, since_s=10.0, deadline_s=15.0)
    hasty = waiting(since_s=10.0, deadline_s=11.0)
    for item in (ordinary, behind, hasty):
        lanes.push(item)
    assert lanes.next_due_s() == 11.0
    assert lanes.overdue(10.9) == []
    assert lanes.overdue(11.0) == [hasty]
    lanes.discard(hasty)
    assert lanes.next_due_s() == 12.0
    assert lanes.overdue(12.0) == [ordinary]
    lanes.discard(ordinary)
    assert (lanes.next_due_s(), lanes.overdue(15.0)) == (15.0, [behind])
    lanes.discard(behind)
    assert lanes.next_due_s() == math.inf


def test_the_time_in_which_no_worker_is_there_does_not_count(lanes, waiting):
    lanes.push(waiting(since_s=0.0, deadline_s=50.0))
    lanes.stand_still()
    assert (lanes.next_due_s(), lanes.overdue(49.0)) == (50.0, [])
    lanes.serve_from(20.0)
    assert lanes.next_due_s() == 20.0 + WAIT_MAX_S
    lanes.push(waiting(since_s=21.0))
    lanes.stand_still()
    lanes.serve_from(47.5)
    assert lanes.next_due_s() == 49.5


def test_one_that_had_its_place_before_keeps_the_time_that_it_has_waited(lanes, waiting):
    first = waiting(since_s=1.0)
    lanes.push(first)
    lanes.push(waiting(since_s=2.0))
    assert pop(lanes) is first
    assert lanes.next_due_s() == 2.0 + WAIT_MAX_S
    lanes.push_first(first)
    assert lanes.next_due_s() == 1.0 + WAIT_MAX_S
    assert pop(lanes) is first


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.1, 9)),
            st.sampled_from(["pop", "late", "still", "serve"]),
        ),
        max_size=80,
    )
)
def test_whatever_happens_the_next_to_be_late_is_known(steps):
    """Against a plain search through all of them."""
    with socket.socket() as connection:
        lanes = Lanes(5, 3, wait_max_s=WAIT_MAX_S)
        now_s, inside = 0.0, set()
        for step in steps:
            now_s += 0.25
            if isinstance(step, tuple):
                client, background, left_s = step
                deadline = Deadline(now_s + left_s)
                job = Job("0" * 64, 1, deadline, "all", "", client, "", again=False, background=background)
                item = Waiting(job, connection, now_s)
                try:
                    inside.discard(lanes.push(item))
                    inside.add(item)
                except QueueFull:
                    pass
            elif step == "pop":
                inside.discard(pop(lanes, now_s=now_s))
            elif step == "late":
                late = lanes.overdue(now_s)
                assert set(late) == {item for item in inside if lanes.due_s(item) <= now_s}
                for item in late:
                    lanes.discard(item)
                    inside.discard(item)
            elif step == "still":
                lanes.stand_still()
            else:
                lanes.serve_from(now_s)
            assert set(lanes) == inside
            assert len(lanes) == len(inside)
            assert lanes.next_due_s() == min(map(lanes.due_s, inside), default=math.inf)
