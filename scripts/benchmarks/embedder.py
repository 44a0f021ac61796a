"""dlib's network in dlib's own runtime and as the ONNX graph of the pack `dlib`, on the same faces."""

import tempfile
from pathlib import Path

import click
import cv2
import dlib
import numpy as np

from app.vision.dlib_onnx import CHIP_PADDING, CHIP_SIZE_PX, prepare_dlib_pack
from app.vision.dlib_weights import LANDMARKS_NAME, WEIGHTS_NAME, find_model_file
from app.vision.runtime import InferenceSession, open_session
from scripts.benchmarks.pictures import photos
from scripts.benchmarks.report import show, time_interleaved


@click.command()
@click.option("--runs", type=click.IntRange(min=2), default=100, show_default=True, help="Faces embedded each way.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def embedder(runs: int, as_json: bool) -> None:
    """One face at a time, one thread: dlib's own runtime and onnxruntime."""
    cv2.setNumThreads(1)
    pictures = photos()
    chips = _chips(pictures)
    network = dlib.face_recognition_model_v1(str(find_model_file(WEIGHTS_NAME)))
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(prepare_dlib_pack(Path(folder)).path("embedder"))
    ways = {
        "dlib": lambda run: network.compute_face_descriptor(chips[run % len(chips)]),
        "onnxruntime, same weights": lambda run: session.run(None, {"chips": chips[run % len(chips)][None]}),
    }
    timings = time_interleaved(ways, runs)
    facts = {
        "faces": f"{len(chips)} in {len(pictures)} pictures",
        "largest difference of any number of any embedding": f"{_difference(network, session, chips):.1e}",
    }
    show("dlib's face embedder, one face at a time, one thread", timings, facts, as_json=as_json)


def _chips(pictures: list[Path]) -> list[np.ndarray]:
    """All faces that dlib finds, aligned; uint8, (150, 150, 3), RGB."""
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(find_model_file(LANDMARKS_NAME)))
    chips = []
    for picture in pictures:
        image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
        shapes = [predictor(image, box) for box in detector(image, 1)]
        chips += [dlib.get_face_chip(image, shape, CHIP_SIZE_PX, CHIP_PADDING) for shape in shapes]
    return chips


def _difference(network: dlib.face_recognition_model_v1, session: InferenceSession, chips: list[np.ndarray]) -> float:
    pairs = (
        (np.array(network.compute_face_descriptor(chip)), session.run(None, {"chips": chip[None]})[0][0])
        for chip in chips
    )
    return max(float(np.abs(own - graph).max()) for own, graph in pairs)
