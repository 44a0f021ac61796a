"""Faces as JSON: what the API and `python -m app.embedder` answer alike."""

from dataclasses import asdict
from typing import Any

from app.vision.faces import Analysis, Face
from app.vision.packs import contract_dimension


def face_to_json(face: Face) -> dict[str, Any]:
    """One face; its `embedding`, where it has one, to the last bit of float32."""
    shown: dict[str, Any] = {
        "box": asdict(face.box),
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks],
        "detection_score": round(face.score, 4),
        "size_px": face.quality.size_px,
        "sharpness": round(face.quality.sharpness, 1),
    }
    return shown if face.embedding is None else shown | {"embedding": face.embedding.tolist()}


def detection_to_json(analysis: Analysis) -> dict[str, Any]:
    """One picture: its size, its faces, largest first, the model that saw them, and the time that it took."""
    return {
        "image": {"width": analysis.width_px, "height": analysis.height_px},
        "faces": [face_to_json(face) for face in analysis.faces],
        "model": analysis.model,
        "timings_ms": timings_to_json(analysis.timings_ms),
    }


def embeddings_to_json(analysis: Analysis) -> dict[str, Any]:
    """The same, and what the embeddings can be compared with."""
    contract = {"contract": analysis.contract, "dimension": contract_dimension(analysis.contract)}
    return detection_to_json(analysis) | contract


def timings_to_json(timings_ms: dict[str, float]) -> dict[str, float]:
    """Milliseconds by stage."""
    return {stage: round(ms, 2) for stage, ms in timings_ms.items()}
