"""The way of one picture through an engine: decode, detect, embed, with the time of each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from app.deadline import Deadline
from app.errors import InvalidEmbedding, InvalidPack, WorkerTimeout
from app.vision.faces import Analysis, Effort, Embed, Face, Float32Array, UInt8Array
from app.vision.images import decode_image
from app.vision.memory import is_lack_of_memory
from app.vision.packs import InstalledPack
from app.vision.strategies import AlignedFace, Detect, MinScores, Strategy, search


def run_pipeline(
    pack: InstalledPack,
    image_bytes: bytes,
    *,
    max_pixels: int,
    embed: Embed,
    deadline: Deadline,
    effort: Effort,
    find_faces: Detect,
    scores: MinScores,
    embed_chips: Callable[[Sequence[UInt8Array]], Float32Array],
    chips_at_once: int,
) -> Analysis:
    """Decode, find and embed; `FaceEngine.analyze` says what comes back and which errors.

    Args:
        find_faces: gives aligned faces in any order.
        scores: from which on it is to be believed.
        embed_chips: N >= 1 chips to float32, (N, D), of any length.
        chips_at_once: largest N; between one call and the next the deadline is looked at.

    Raises:
        MemoryError: there is not enough, whichever library found out.
    """
    embed_many = _in_chunks(embed_chips, chips_at_once, deadline)
    try:
        return _run(pack, image_bytes, max_pixels, embed, deadline, effort, find_faces, scores, embed_many)
    except Exception as error:
        if is_lack_of_memory(error):
            raise MemoryError from error
        raise


def _run(
    pack: InstalledPack,
    image_bytes: bytes,
    max_pixels: int,
    embed: Embed,
    deadline: Deadline,
    effort: Effort,
    find_faces: Detect,
    scores: MinScores,
    embed_chips: Callable[[Sequence[UInt8Array]], Float32Array],
) -> Analysis:
    times = [time.perf_counter()]
    image_bgr = decode_image(image_bytes, max_pixels=max_pixels)
    times.append(time.perf_counter())
    _check(deadline, "decoded")
    found, strategy = search(image_bgr, find_faces, scores, effort, _between_strategies(deadline))
    found.sort(key=_largest_first)
    times.append(time.perf_counter())
    faces = _with_embeddings(found, found[: _EMBEDDED[embed]], embed_chips)
    times.append(time.perf_counter())
    spans_ms = [(end - start) * 1e3 for start, end in pairwise(times)]
    return Analysis(
        width_px=image_bgr.shape[1],
        height_px=image_bgr.shape[0],
        faces=faces,
        model=pack.manifest.name,
        contract=pack.manifest.contract.id,
        timings_ms=dict(zip(("decode", "detect", "embed"), spans_ms, strict=True)),
        strategy=strategy,
    )


def _check(deadline: Deadline, done: str) -> None:
    if deadline.expired:
        raise WorkerTimeout(f"The deadline passed while the picture was {done}.")


def _between_strategies(deadline: Deadline) -> Callable[[Strategy], None]:
    """Ends the search in time: native code cannot be broken off, and a worker that answers too late counts as hanging."""
    started_s, usual_s = time.perf_counter(), None

    def check(strategy: Strategy) -> None:
        nonlocal usual_s
        if usual_s is None:
            usual_s = time.perf_counter() - started_s
        if deadline.remaining_s() < strategy.cost * usual_s:
            raise WorkerTimeout("The deadline does not leave the time to look for faces in all ways.")

    return check


def _in_chunks(
    embed_chips: Callable[[Sequence[UInt8Array]], Float32Array], at_once: int, deadline: Deadline
) -> Callable[[Sequence[UInt8Array]], Float32Array]:
    def embed_many(chips: Sequence[UInt8Array]) -> Float32Array:
        rows = []
        for at in range(0, len(chips), at_once):
            _check(deadline, "searched" if at == 0 else "embedded")
            rows.append(embed_chips(chips[at : at + at_once]))
        return np.concatenate(rows)

    return embed_many


# How many faces, from the largest on, get an embedding; None is all.
_EMBEDDED: dict[Embed, int | None] = {"all": None, "largest": 1, "none": 0}


def _largest_first(item: AlignedFace) -> tuple[int, float, int, int]:
    face = item[0]
    return (-face.box.area_px, -face.score, face.box.x, face.box.y)


def _with_embeddings(
    found: Sequence[AlignedFace],
    chosen: Sequence[AlignedFace],
    embed_chips: Callable[[Sequence[UInt8Array]], Float32Array],
) -> tuple[Face, ...]:
    rows = unit_rows(embed_chips([chip for _, chip in chosen])) if chosen else ()
    embedded = [replace(face, embedding=row) for (face, _), row in zip(chosen, rows, strict=True)]
    return (*embedded, *(face for face, _ in found[len(embedded) :]))


def check_embedder(
    pack: InstalledPack, embed_chips: Callable[[Sequence[UInt8Array]], Float32Array], chip_size_px: int
) -> None:
    """Run the embedder once, which also spares the first picture its start.

    Raises:
        InvalidPack: it cannot take a chip, or gives another number of dimensions than the manifest says.
        MemoryError: there is not enough.
    """
    blank = np.zeros((chip_size_px, chip_size_px, 3), np.uint8)
    try:
        shape = embed_chips([blank]).shape
    except Exception as error:  # what a runtime makes of a graph of another kind has no common class
        if is_lack_of_memory(error):
            raise MemoryError from error
        raise InvalidPack(f"The embedder of model pack {pack.manifest.name} takes no faces") from error
    if shape != (1, pack.manifest.dimension):
        raise InvalidPack(
            f"The embedder of model pack {pack.manifest.name} gives {shape[-1]} dimensions, "
            f"not the {pack.manifest.dimension} of its manifest"
        )


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Scale every row to length 1; float32, (N, D).

    Raises:
        InvalidEmbedding: a row is not finite, or all zeros: the model makes nothing of that face.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Written so that NaN fails too; what is smaller loses its digits.
    if not np.all((lengths >= np.finfo(np.float32).tiny) & (lengths < np.inf)):
        raise InvalidEmbedding("The model makes nothing of a face that can be compared with.")
    return np.asarray(vectors / lengths, np.float32)
