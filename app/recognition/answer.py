"""The answer to a recognition request, in the form that existing frontends parse (`docs/api.md`). Pure."""

from typing import Any

from app.recognition.matching import Candidate, Decision
from app.recognition.service import FaceResult, RecognitionResult
from app.vision.faces import Box
from app.vision.packs import Calibration


def build_answer(result: RecognitionResult, *, request_id: str, elapsed_s: float) -> dict[str, Any]:
    """Keys up to `elapsed_time` are the published format and never change; the others were added."""
    confidence = result.calibration.confidence
    matched = [face for face in result.faces if face.decision is Decision.MATCH]
    best = min((face.candidates[0] for face in matched), key=lambda candidate: candidate.distance, default=None)
    return {
        "status": "success",
        "recognized_persons": [
            {"name": face.candidates[0].name, "face_coordinates": box_to_json(face.face.box)} for face in matched
        ],
        "all_detected_matches": _detected_matches(result),
        "best_match": best
        and {
            "person_name": best.name,
            "distance": _distance(best.distance),
            "confidence": _percent(confidence(best.distance)),
        },
        "mode": result.mode,
        "elapsed_time": round(elapsed_s, 4),
        "faces": [_face_to_json(face, result) for face in result.faces],
        "image": {"width": result.width_px, "height": result.height_px},
        "domain": result.domain,
        "model": result.model,
        "threshold": result.threshold,
        "request_id": request_id,
        "timings_ms": {stage: round(ms, 2) for stage, ms in result.timings_ms.items()},
    } | ({"fallback_reason": result.fallback_reason.value} if result.fallback_reason else {})


def box_to_json(box: Box) -> dict[str, int]:
    """Pixels of the uploaded picture as a viewer shows it."""
    return {"x": box.x, "y": box.y, "w": box.w, "h": box.h}


def _detected_matches(result: RecognitionResult) -> list[dict[str, Any]]:
    """Every person within the threshold of some face, surest first."""
    by_person: dict[str, list[Candidate]] = {}
    for face in result.faces:
        for candidate in face.candidates:
            if candidate.distance <= result.threshold:
                by_person.setdefault(candidate.label, []).append(candidate)
    nearest_first = sorted(by_person.values(), key=lambda seen: min(candidate.distance for candidate in seen))
    return [{"person_name": seen[0].name, "metrics": _metrics(seen, result.calibration)} for seen in nearest_first]


def _metrics(seen: list[Candidate], calibration: Calibration) -> dict[str, Any]:
    """One person's figures over all faces of the picture.

    `weighted_score` is the confidence at the mean distance of the templates that matched: it falls below
    `confidence_percentage` where only some of a person's templates are near.
    """
    min_distance = min(candidate.distance for candidate in seen)
    occurrences = sum(candidate.occurrences for candidate in seen)
    total = sum(candidate.occurrences * (candidate.mean_distance or candidate.distance) for candidate in seen)
    mean_distance = total / occurrences if occurrences else min_distance
    return {
        "confidence_percentage": _percent(calibration.confidence(min_distance)),
        "occurrences": occurrences,
        "min_distance": _distance(min_distance),
        "weighted_score": _percent(calibration.confidence(mean_distance)),
    }


def _face_to_json(face: FaceResult, result: RecognitionResult) -> dict[str, Any]:
    listed = face.candidates[: result.top_k]
    return {
        "box": box_to_json(face.face.box),
        "detection_score": round(face.face.score, 4),
        "decision": face.decision.value,
        "candidates": [_candidate_to_json(candidate, result.calibration) for candidate in listed],
    }


def _candidate_to_json(candidate: Candidate, calibration: Calibration) -> dict[str, Any]:
    return {
        "person": {
            "id": str(candidate.person_id) if candidate.person_id else None,
            "label": candidate.label,
            "name": candidate.name,
        },
        "distance": _distance(candidate.distance),
        "similarity": _distance(1.0 - candidate.distance),
        "confidence": _percent(calibration.confidence(candidate.distance)),
    }


def _distance(value: float) -> float:
    return round(value, 6)


def _percent(value: float) -> float:
    return round(value, 2)
