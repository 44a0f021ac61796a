"""Readers that never stop, beside a writer: no torn state, nobody who was removed, nobody missing, no gap."""

import random
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from app.edge.gallery import Gallery
from tests.edge.making import CONTRACT, DIMENSION, delta, templates, vector

UPDATES = 600
MEMBERS = 60

State = dict[str, int]
"""Key → seed of the template."""


class History:
    """Every state that was asked for. A search finds one of those from `returned`, when it began, to `announced` at its end."""

    def __init__(self, first: State) -> None:
        self.states = [first]
        self.returned = 0
        self.announced = 0
        self.over = False

    def fits(self, found: list[tuple[str, float]], probe: np.ndarray, begin: int, end: int) -> bool:
        return any(self._is_that(found, probe, self.states[number]) for number in range(begin, end + 1))

    @staticmethod
    def _is_that(found: list[tuple[str, float]], probe: np.ndarray, state: State) -> bool:
        if len(found) != len(state):
            return False
        return all(key in state and abs(similarity - cosine(state[key], probe)) < 1e-5 for key, similarity in found)


VECTORS: dict[int, np.ndarray] = {}


def cosine(seed: int, probe: np.ndarray) -> float:
    if seed not in VECTORS:
        VECTORS[seed] = vector(seed) / np.linalg.norm(vector(seed))
    return float(VECTORS[seed] @ probe)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("codes", [True, False], ids=["codes", "exact"])
def test_a_search_finds_one_state_and_never_one_that_is_over(codes: bool, quick_switches: None) -> None:
    gallery = Gallery(CONTRACT, DIMENSION, codes=codes)
    history = History({f"m{number}": number for number in range(MEMBERS)})
    gallery.update([templates(key, seed) for key, seed in history.states[0].items()])
    wrong: list[str] = []
    searches = [0, 0]

    def search(reader: int) -> None:
        choice = random.Random(reader)
        while not history.over and not wrong:
            probe = vector(choice.randrange(MEMBERS))
            probe /= np.linalg.norm(probe)
            begin = history.returned
            found = gallery.snapshot.match(probe, now=0.0, top_k=MEMBERS * 2)
            end = history.announced
            searches[reader] += 1
            if not history.fits([(match.member.key, match.similarity) for match in found], probe, begin, end):
                wrong.append(f"between states {begin} and {end}: {found}")

    readers = [threading.Thread(target=search, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    try:
        _write(gallery, history, wrong)
    finally:
        history.over = True
        for reader in readers:
            reader.join()
    assert wrong == []
    assert min(searches) > 50


def _write(gallery: Gallery, history: History, wrong: list[str]) -> None:
    choice = random.Random(7)
    for number in range(UPDATES):
        state = dict(history.states[-1])
        gone = choice.sample(sorted(state), 2)
        for key in gone:
            del state[key]
        changed = choice.sample(sorted(state), 1)
        fresh = dict.fromkeys(changed, 10000 + number) | {
            f"n{number}-{extra}": 20_000 + 2 * number + extra for extra in range(2)
        }
        state |= fresh
        history.states.append(state)
        history.announced = len(history.states) - 1
        if number % 5:
            gallery.apply(delta([templates(key, seed) for key, seed in fresh.items()], gone))
        else:
            gallery.update([templates(key, seed) for key, seed in state.items()])
        history.returned = len(history.states) - 1
        if wrong:
            return
