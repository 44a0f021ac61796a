import numpy as np
import pytest

from app.embedder.service import EmbeddingService
from app.embedder.similarity import cosine_similarity_np
from app.errors import InvalidVector

RANDOM = np.random.default_rng(4)


def test_it_is_the_cosine_whatever_the_lengths():
    a, b = RANDOM.normal(size=(5, 128)).astype(np.float32), RANDOM.normal(size=(3, 128))
    found = cosine_similarity_np(a, b * 1000)
    for n, m in np.ndindex(5, 3):
        expected = float(a[n] @ b[m]) / float(np.linalg.norm(a[n]) * np.linalg.norm(b[m]))
        assert found[n, m] == pytest.approx(expected, abs=1e-6)


def test_single_vectors_have_no_axis():
    matrix, vector = RANDOM.normal(size=(5, 8)), RANDOM.normal(size=8)
    assert cosine_similarity_np(matrix, matrix).shape == (5, 5)
    assert cosine_similarity_np(matrix, vector).shape == (5,)
    assert cosine_similarity_np(vector, matrix).shape == (5,)
    assert cosine_similarity_np(vector, vector).shape == ()
    assert cosine_similarity_np(np.empty((0, 8)), vector).shape == (0,)


def test_ends_of_the_scale():
    assert EmbeddingService.calculate_similarity([3, 4], [3, 4]) == 1.0
    assert EmbeddingService.calculate_similarity([3, 4], [-3, -4]) == -1.0
    assert EmbeddingService.calculate_similarity((1, 0), np.array([0, 5])) == 0.0
    for _ in range(200):
        vector = RANDOM.normal(size=128).astype(np.float32)
        assert EmbeddingService.calculate_similarity(vector, vector) <= 1.0


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_very_small_and_very_large_numbers_do_not_matter(scale):
    assert EmbeddingService.calculate_similarity([scale, 0], [scale, scale]) == pytest.approx(0.5**0.5)


BAD = {
    "zeros": [0.0, 0.0],
    "nan": [1.0, float("nan")],
    "infinity": [1.0, float("inf")],
    "another length": [1.0, 2.0, 3.0],
    "nothing": [],
    "a number": 5.0,
    "a text": "vector",
    "none": None,
    "three axes": np.ones((1, 2, 2)),
    "ragged": [[1.0, 2.0], [1.0]],
    "one row of zeros": [[1.0, 2.0], [0.0, 0.0]],
    "complex": [1j, 2j],
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared_is_an_error(case):
    for pair in ((BAD[case], [1.0, 2.0]), ([1.0, 2.0], BAD[case])):
        with pytest.raises(InvalidVector):
            cosine_similarity_np(*pair)
        with pytest.raises(InvalidVector):
            EmbeddingService.calculate_similarity(*pair)


def test_one_number_is_for_two_vectors():
    with pytest.raises(InvalidVector, match="matrices"):
        EmbeddingService.calculate_similarity(np.eye(2), [1.0, 0.0])
