"""Which frames become templates: never two persons' together, whatever comes in which order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.sessions.frames import Reason
from app.sessions.limits import SessionLimits
from app.sessions.picking import FAR, Outcome, Picks
from tests.db_server import normalised
from tests.enrolment.drawn import THRESHOLD, axis, between

LIMITS = SessionLimits(max_frames=40, expires_in_s=60.0, templates=5, min_templates=3)


def frame(person: int, view: int, spread: float = 0.3):
    return between(axis(person), axis((person + 1 + view % 7) % 8), spread * THRESHOLD)


def after(frames, picks: Picks | None = None) -> Picks:
    picks = picks or Picks(THRESHOLD, LIMITS)
    for number, embedding in enumerate(frames, 1):
        picks, _ = picks.look(embedding, number)
    return picks


def distance(one, other) -> float:
    return 1.0 - float(one @ other)


# Who is seen, and how: three persons, seven views of each, some near to what is common, some far from it.
SEEN = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.floats(0.0, 0.9)), max_size=30)


@given(SEEN)
def test_templates_are_of_one_face_and_no_two_are_the_same_photo(seen):
    chosen = after(frame(*one) for one in seen).chosen
    assert len(chosen) <= 5
    for at, one in enumerate(chosen):
        for other in chosen[:at]:
            assert 0.01 * THRESHOLD <= distance(one.embedding, other.embedding) <= FAR * THRESHOLD


@given(SEEN)
def test_more_than_one_frame_of_others_ends_it(seen):
    picks = after(frame(*one) for one in seen)
    assert (picks.outcome is Outcome.SEVERAL_PERSONS) == (picks.strangers > 1)
    assert picks.strangers == sum(picks.counts) - max(picks.counts, default=0)


@given(st.integers(0, 5))
def test_a_single_stranger_is_passed_over_wherever_they_come(at):
    frames = [frame(0, view) for view in range(5)]
    picks = after([*frames[:at], frame(3, 0), *frames[at:]])
    assert picks.outcome is Outcome.ENOUGH
    assert all(distance(kept.embedding, axis(0)) <= THRESHOLD for kept in picks.chosen)


def test_a_face_that_changes_into_another_is_not_followed():
    way = [between(axis(0), axis(1), step * 0.9 * THRESHOLD) for step in range(6)]
    picks = after(way)
    assert max(distance(kept.embedding, axis(0)) for kept in picks.chosen) <= FAR * THRESHOLD


def test_what_nobody_can_tell_is_neither_taken_nor_held_against_anybody():
    picks, reason = after([axis(0)]).look(between(axis(0), axis(1), 1.2 * THRESHOLD), 2)
    assert (reason, picks.strangers, len(picks.kept)) == (Reason.UNLIKE, 0, 1)


def test_where_the_person_is_known_the_first_frame_of_another_is_none_of_theirs():
    picks = Picks(THRESHOLD, LIMITS, known=(axis(0),))
    picks, reason = picks.look(axis(3), 1)
    assert (reason, picks.chosen, picks.strangers) == (Reason.ANOTHER_PERSON, (), 1)
    picks = after([frame(0, view, 0.45) for view in range(5)], picks)
    assert picks.outcome is Outcome.ENOUGH


def test_less_is_asked_of_a_frame_the_fewer_are_left():
    near = between(axis(0), axis(1), 0.1 * THRESHOLD)
    early, late = after([axis(0)]).look(near, 2), after([axis(0)]).look(near, 38)
    assert (early[1], late[1]) == (Reason.TOO_SIMILAR, None)


def test_at_the_end_the_least_number_is_enough():
    assert after(frame(0, view) for view in range(2)).final is Outcome.TOO_FEW
    assert after(frame(0, view) for view in range(3)).final is Outcome.ENOUGH
    assert after([]).final is Outcome.TOO_FEW


def test_noise_of_a_camera_makes_one_group():
    noise = np.random.default_rng(1).normal(size=(40, 8)) * 0.03
    assert len(after(normalised(axis(2) + noise)).counts) == 1
