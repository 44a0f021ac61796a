from dataclasses import replace

import numpy as np
import pytest

from app.recognition.answer import build_answer
from app.recognition.matching import Candidate, Decision
from app.recognition.service import FaceResult, FallbackReason, RecognitionResult
from app.vision.faces import Box, Face, FaceQuality
from app.vision.packs import Calibration

CALIBRATION = Calibration(threshold=0.4, slope=20.0, margin=0.05, basis="test")


def face_result(decision: Decision, *candidates: Candidate, x: int = 100) -> FaceResult:
    face = Face(Box(x, 200, 150, 150), 0.9, np.zeros((5, 2), np.float32), FaceQuality(150, 300.0))
    return FaceResult(face, decision, candidates)


def result(*faces: FaceResult) -> RecognitionResult:
    return RecognitionResult("pgvector", "people", "dlib", CALIBRATION, 0.4, 1, 640, 480, faces, {"search": 1.234})


def candidate(label: str, distance: float, occurrences: int = 1, mean: float | None = None) -> Candidate:
    return Candidate(None, label, f"{label} shown", distance, occurrences, mean if mean is not None else distance)


def answer(*faces: FaceResult) -> dict:
    return build_answer(result(*faces), request_id="r1", elapsed_s=0.05)


def test_the_published_keys_come_first_and_are_all_there():
    named = answer(face_result(Decision.MATCH, candidate("a", 0.145)))
    published = ["status", "recognized_persons", "all_detected_matches", "best_match", "mode", "elapsed_time"]
    assert list(named)[:6] == published
    assert named["status"] == "success"
    assert named["mode"] == "pgvector"
    assert named["elapsed_time"] == 0.05
    assert named["recognized_persons"] == [
        {"name": "a shown", "face_coordinates": {"x": 100, "y": 200, "w": 150, "h": 150}}
    ]
    assert set(named["best_match"]) == {"person_name", "distance", "confidence"}
    assert set(named["all_detected_matches"][0]["metrics"]) == {
        "confidence_percentage",
        "occurrences",
        "min_distance",
        "weighted_score",
    }


def test_best_match_is_null_when_nobody_matched():
    assert answer(face_result(Decision.UNKNOWN, candidate("a", 0.9)))["best_match"] is None
    assert answer()["best_match"] is None


def test_an_ambiguous_face_is_not_named_but_its_persons_are_listed():
    told = answer(face_result(Decision.AMBIGUOUS, candidate("a", 0.2), candidate("b", 0.21)))
    assert told["recognized_persons"] == []
    assert told["best_match"] is None
    assert [match["person_name"] for match in told["all_detected_matches"]] == ["a shown", "b shown"]
    assert len(told["faces"][0]["candidates"]) == 1  # top_k bounds what is listed, not what is known


def test_best_match_is_the_nearest_of_all_faces():
    told = answer(
        face_result(Decision.MATCH, candidate("a", 0.3)), face_result(Decision.MATCH, candidate("b", 0.1), x=400)
    )
    assert told["best_match"]["person_name"] == "b shown"
    assert len(told["recognized_persons"]) == 2


def test_confidence_is_fifty_at_the_threshold():
    told = answer(face_result(Decision.MATCH, candidate("a", 0.4)))
    assert told["best_match"]["confidence"] == pytest.approx(50.0)


def test_weighted_score_falls_where_only_some_templates_are_near():
    (match,) = answer(face_result(Decision.MATCH, candidate("a", 0.1, occurrences=5, mean=0.3)))["all_detected_matches"]
    metrics = match["metrics"]
    assert metrics["occurrences"] == 5
    assert metrics["weighted_score"] < metrics["confidence_percentage"]


def test_weighted_score_of_one_template_is_its_confidence():
    (match,) = answer(face_result(Decision.MATCH, candidate("a", 0.145)))["all_detected_matches"]
    assert match["metrics"]["weighted_score"] == match["metrics"]["confidence_percentage"]


def test_the_reason_is_there_only_where_a_fallback_answered():
    chosen = result(face_result(Decision.UNKNOWN))
    assert "fallback_reason" not in build_answer(chosen, request_id="r1", elapsed_s=0.05)
    fallen = replace(chosen, mode="pkl", fallback_reason=FallbackReason.NOT_MIGRATED)
    told = build_answer(fallen, request_id="r1", elapsed_s=0.05)
    assert (told["mode"], told["fallback_reason"]) == ("pkl", "not_migrated")
