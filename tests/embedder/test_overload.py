"""More jobs than the pool can take, and more of one client's than others should wait for."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pytest

from tests.embedder.pools import CLIENTS, Answer, at_once, faces, held_up, running_pool
from tests.service.running import eventually

pytestmark = pytest.mark.slow

IMAGES = faces(8)


def kinds(answers: Sequence[Answer]) -> Counter[str]:
    return Counter(type(answer).__name__ for answer in answers)


def test_a_full_queue_refuses_at_once_and_answers_what_it_has(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=2, embedder_queue=CLIENTS) as pool:
        room, too_many = pool.size + CLIENTS, 3 * CLIENTS
        # Of a picture that nobody has looked at yet, two at most would be tried at once.
        pool.analyze(IMAGES[0])

        def let_go_once_the_rest_is_refused() -> None:
            eventually(lambda: pool.jobs().get("pool_busy") == too_many)
            assert pool.queue_length() == CLIENTS
            let_go()

        with held_up(pool) as let_go:
            ask = [lambda: pool.analyze(IMAGES[0])] * (room + too_many)
            *answers, _ = at_once(*ask, let_go_once_the_rest_is_refused)
        assert kinds(answers) == {"Analysis": room, "PoolBusy": too_many}


def test_a_client_with_many_requests_does_not_hold_up_another(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=2, embedder_queue=128) as pool:
        finished: list[str] = []

        def ask(client: str, image: bytes) -> Answer:
            answer = pool.analyze(image, client=client)
            finished.append(client)
            return answer

        def let_go_once_all_wait() -> None:
            eventually(lambda: pool.queue_length() + len(pool.busy()) == 70)
            let_go()

        with held_up(pool) as let_go:
            hog = [partial(ask, "hog", IMAGES[number % 4]) for number in range(60)]
            modest = [partial(ask, "modest", IMAGES[4 + number % 4]) for number in range(10)]
            *answers, _ = at_once(*hog, *modest, let_go_once_all_wait)
        assert kinds(answers) == {"Analysis": 70}
        places = [place for place, client in enumerate(finished) if client == "modest"]
        waits = [later - earlier - 1 for earlier, later in pairwise(places)]
        # As many of the hog's as workers hold already, and one more for each of them before it is the other's turn.
        assert max(waits) <= 2 * pool.size, finished


def test_a_full_queue_has_room_for_a_client_that_waits_for_little(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=1, embedder_queue=CLIENTS) as pool:

        def ask_modestly() -> Answer:
            eventually(lambda: pool.queue_length() == CLIENTS)
            return pool.analyze(IMAGES[1], client="modest")

        def let_go_once_one_had_to_give_way() -> None:
            eventually(lambda: pool.jobs().get("pool_busy") == 1)
            let_go()

        with held_up(pool) as let_go:
            hog = [lambda image=image: pool.analyze(image, client="hog") for image in [*IMAGES, IMAGES[0]]]
            *answers, modest, _ = at_once(*hog, ask_modestly, let_go_once_one_had_to_give_way)
        assert kinds([modest]) == {"Analysis": 1}
        assert kinds(answers) == {"Analysis": CLIENTS, "PoolBusy": 1}
