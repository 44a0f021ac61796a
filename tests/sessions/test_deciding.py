"""Verification by the mean of distances: what is promised of its errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sessions.deciding import Evidence, Verdict, looks, threshold_of
from app.sessions.limits import SessionLimits
from app.vision.catalog import DLIB_CALIBRATION, INSIGHTFACE_CALIBRATION


def limits(max_frames: int = 30, min_frames: int = 3, rate: float = 1e-3) -> SessionLimits:
    return SessionLimits(max_frames, 60.0, false_match_rate=rate, min_frames=min_frames)


def decided(distances, limits_: SessionLimits, threshold: float) -> tuple[Verdict, int]:
    """The verdict, and after how many frames."""
    evidence = Evidence(limits_, threshold)
    for number, distance in enumerate(distances, 1):
        evidence = evidence.with_frame(distance, stranger=False)
        verdict = evidence.verdict(limits_.max_frames - number)
        if verdict is not Verdict.OPEN:
            return verdict, number
    return evidence.final, len(distances)


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([0.03] * 30, (Verdict.ACCEPTED, 3)),
        ([0.15] * 30, (Verdict.REJECTED, 13)),
        # A photograph of the person, held up for one frame or two.
        ([0.03, *[0.15] * 29], (Verdict.REJECTED, 13)),
        ([*[0.15] * 5, 0.03, *[0.15] * 24], (Verdict.REJECTED, 13)),
        ([0.08, 0.05, 0.04], (Verdict.ACCEPTED, 3)),
        ([0.08], (Verdict.TOO_FEW, 1)),
        ([0.03], (Verdict.TOO_FEW, 1)),
        ([], (Verdict.TOO_FEW, 0)),
    ],
)
def test_the_mean_decides(distances, expected):
    assert decided(distances, limits(), 0.06) == expected


@given(st.lists(st.floats(0.0, 2.0), min_size=30, max_size=30))
def test_it_is_rejected_early_only_where_it_would_be_in_the_end(distances):
    verdict, at = decided(distances, limits(), 0.06)
    if verdict is Verdict.REJECTED:
        best = [*distances[:at], *[0.0] * (30 - at)]
        assert at == 30 or sum(best) / 30 > 0.06


@given(st.floats(1e-6, 0.1), st.integers(1, 120), st.integers(1, 120))
def test_more_looks_and_lower_rates_ask_for_nearer_faces(rate, max_frames, min_frames):
    bounds = limits(max_frames, min(min_frames, max_frames), rate)
    for calibration in (DLIB_CALIBRATION, INSIGHTFACE_CALIBRATION):
        applied = threshold_of(bounds, calibration)
        assert applied <= calibration.distance_at(rate) <= calibration.threshold
        assert applied == calibration.distance_at(rate / len(looks(bounds)))


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9, 1.0])
def test_impostors_are_accepted_no_more_often_than_stated_however_alike_their_frames_are(alike):
    """A hundred thousand impostors whose distances are normal: the rate is that of one frame, divided by the looks."""
    rng = np.random.default_rng(0)
    sessions, bounds = 100_000, limits(12, 3)
    mean, spread, rate = 0.14, 0.026, 0.01
    common, own = rng.normal(size=(sessions, 1)), rng.normal(size=(sessions, 12))
    distances = mean + spread * (np.sqrt(alike) * common + np.sqrt(1 - alike) * own)
    single = np.quantile(mean + spread * rng.normal(size=1_000_000), rate / len(looks(bounds)))
    means = np.cumsum(distances, axis=1) / np.arange(1, 13)
    accepted = (means[:, [count - 1 for count in sorted(looks(bounds))]] <= single).any(axis=1).mean()
    assert accepted <= 1.1 * rate


def test_looks_are_few():
    assert sorted(looks(limits(30, 3))) == [3, 6, 12, 24, 30]
    assert looks(limits(1, 1)) == frozenset({1})
    assert looks(limits(30, 30)) == frozenset({30})
    assert threshold_of(limits(1, 1), DLIB_CALIBRATION) == DLIB_CALIBRATION.threshold


@pytest.mark.parametrize(("max_frames", "min_frames"), [(30, 3), (30, 30), (12, 1)])
def test_whoever_watches_the_mean_cannot_choose_the_moment(max_frames, min_frames):
    """An end that the client brings about, at any number of frames with a mean that is near enough, is no look of its own."""
    bounds = limits(max_frames, min_frames)
    ended = {n: Evidence(bounds, 0.06, frames=n, total=0.05 * n).final for n in range(1, max_frames + 1)}
    assert {n for n, verdict in ended.items() if verdict is Verdict.ACCEPTED} == looks(bounds)
    assert {n for n, verdict in ended.items() if verdict is Verdict.TOO_FEW} == set(range(1, min_frames))
