from hypothesis import given
from hypothesis import strategies as st

from app.recognition.matching import Candidate, Decision, decide


def candidate(label: str, distance: float) -> Candidate:
    return Candidate(None, label, label, distance, 1, distance)


def test_nobody_in_the_gallery_is_unknown():
    assert decide([], threshold=0.5, margin=0.1) is Decision.UNKNOWN


def test_a_far_candidate_is_unknown():
    assert decide([candidate("a", 0.51)], threshold=0.5, margin=0.1) is Decision.UNKNOWN


def test_the_only_person_within_the_threshold_matches():
    assert decide([candidate("a", 0.5)], threshold=0.5, margin=0.1) is Decision.MATCH


def test_two_persons_too_close_to_tell_are_ambiguous():
    assert decide([candidate("a", 0.30), candidate("b", 0.35)], threshold=0.5, margin=0.1) is Decision.AMBIGUOUS


def test_a_second_person_just_beyond_the_threshold_still_makes_it_ambiguous():
    assert decide([candidate("a", 0.48), candidate("b", 0.52)], threshold=0.5, margin=0.1) is Decision.AMBIGUOUS


def test_a_clear_lead_matches():
    assert decide([candidate("a", 0.2), candidate("b", 0.4)], threshold=0.5, margin=0.1) is Decision.MATCH


@given(st.lists(st.floats(0, 2), max_size=5), st.floats(0.01, 2), st.floats(0, 1))
def test_a_match_is_within_the_threshold_and_leads_by_the_margin(distances, threshold, margin):
    candidates = [candidate(str(n), distance) for n, distance in enumerate(sorted(distances))]
    decision = decide(candidates, threshold=threshold, margin=margin)
    near = bool(candidates) and candidates[0].distance <= threshold
    assert (decision is Decision.UNKNOWN) == (not near)
    if decision is Decision.MATCH and len(candidates) > 1:
        assert candidates[1].distance - candidates[0].distance >= margin
