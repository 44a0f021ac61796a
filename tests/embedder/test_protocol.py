import numpy as np

from app.embedder.protocol import decode_vector, dump_analysis, encode_vector, load_analysis
from app.vision.faces import Analysis, Box, Face, FaceQuality


def test_vectors_survive_to_the_last_bit():
    vector = np.random.default_rng(1).normal(size=512).astype(np.float32)
    assert np.array_equal(decode_vector(encode_vector(vector)), vector)


def test_an_analysis_survives():
    landmarks = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], np.float32)
    vector = np.array([0.6, -0.8], np.float32)
    faces = (
        Face(Box(1, 2, 30, 40), 0.9, landmarks, FaceQuality(30, 12.5, 101.25, -0.125), vector),
        Face(Box(5, 6, 7, 8), 0.5, landmarks, FaceQuality(7, 1.5)),
    )
    read = load_analysis(dump_analysis(Analysis(640, 480, faces, "dlib", "contract", {"decode": 1.5}, "turned-90")))
    assert (read.width_px, read.height_px, read.model, read.contract) == (640, 480, "dlib", "contract")
    assert (read.timings_ms, read.strategy) == ({"decode": 1.5}, "turned-90")
    assert [face.box for face in read.faces] == [face.box for face in faces]
    assert [face.quality for face in read.faces] == [face.quality for face in faces]
    assert np.array_equal(read.faces[0].embedding, vector)
    assert read.faces[1].embedding is None
    assert np.array_equal(read.faces[0].landmarks, landmarks)
