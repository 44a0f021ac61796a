"""What a worker answers: an analysis as JSON.

Vectors travel as base64 of little-endian float32: half the size of decimal text, and exact.
"""

import base64
from typing import Any, Final, get_args

import numpy as np
import orjson

from app.vision.faces import Analysis, Box, Effort, Embed, Face, FaceQuality, Float32Array

EMBED_MODES: Final[tuple[Embed, ...]] = get_args(Embed)
EFFORTS: Final[tuple[Effort, ...]] = get_args(Effort)


def encode_vector(vector: Float32Array) -> str:
    """Base64 of the float32 vector's little-endian bytes."""
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")


def decode_vector(text: str) -> Float32Array:
    """The float32 vector that `encode_vector` wrote."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32, copy=False)


def dump_analysis(analysis: Analysis) -> bytes:
    """One analysis as UTF-8 JSON."""
    return orjson.dumps(
        {
            "width_px": analysis.width_px,
            "height_px": analysis.height_px,
            "model": analysis.model,
            "contract": analysis.contract,
            "timings_ms": analysis.timings_ms,
            "strategy": analysis.strategy,
            "faces": [_face_to_json(face) for face in analysis.faces],
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def load_analysis(body: bytes) -> Analysis:
    """The analysis that `dump_analysis` wrote."""
    data = orjson.loads(body)
    return Analysis(
        width_px=data["width_px"],
        height_px=data["height_px"],
        faces=tuple(_face_from_json(face) for face in data["faces"]),
        model=data["model"],
        contract=data["contract"],
        timings_ms=data["timings_ms"],
        strategy=data["strategy"],
    )


def _face_to_json(face: Face) -> dict[str, Any]:
    return {
        "box": [face.box.x, face.box.y, face.box.w, face.box.h],
        "score": face.score,
        "landmarks": np.ascontiguousarray(face.landmarks, dtype=np.float64).round(2),
        "size_px": face.quality.size_px,
        "sharpness": face.quality.sharpness,
        "brightness": face.quality.brightness,
        "turn": face.quality.turn,
        "embedding": None if face.embedding is None else encode_vector(face.embedding),
    }


def _face_from_json(data: dict[str, Any]) -> Face:
    return Face(
        box=Box(*data["box"]),
        score=data["score"],
        landmarks=np.asarray(data["landmarks"], dtype=np.float32),
        quality=FaceQuality(data["size_px"], data["sharpness"], data["brightness"], data["turn"]),
        embedding=None if data["embedding"] is None else decode_vector(data["embedding"]),
    )
