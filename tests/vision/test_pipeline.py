"""What the pipeline makes of an embedder's rows."""

import numpy as np
import pytest

from app.errors import InvalidEmbedding
from app.vision.pipeline import unit_rows


def test_rows_of_any_length_come_out_with_length_one() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    rows *= np.array([[1e-12], [1.0], [1e3], [1e15]], np.float32)
    assert np.allclose(np.linalg.norm(unit_rows(rows), axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, 1e-45])
def test_a_row_without_a_direction_is_a_typed_error(bad: float) -> None:
    rows = np.ones((2, 8), np.float32)
    rows[1] = bad
    with pytest.raises(InvalidEmbedding):
        unit_rows(rows)
