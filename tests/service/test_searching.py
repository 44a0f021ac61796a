"""What looks for remnants finds them."""

import numpy as np
import pytest

from tests.service import searching
from tests.service.searching import found_in


@pytest.mark.parametrize("at_once", [1, 7, 64, 1 << 22])
def test_all_that_is_there_is_found_wherever_it_lies_and_nothing_else(monkeypatch: pytest.MonkeyPatch, at_once) -> None:
    monkeypatch.setattr(searching, "_AT_ONCE_BYTES", at_once)
    rng = np.random.default_rng(5)
    for _ in range(200):
        # Few different bytes, so that much is there by chance, one within the other too.
        content = rng.integers(0, 3, rng.integers(0, 90), dtype=np.uint8).tobytes()
        needles = {
            str(number): rng.integers(0, 3, rng.integers(1, 10), dtype=np.uint8).tobytes() for number in range(40)
        } | {"whole": content or b"x", "end": content[-6:] or b"x", "begin": content[:6] or b"x"}
        assert found_in(content, needles) == {what for what, needle in needles.items() if needle in content}
