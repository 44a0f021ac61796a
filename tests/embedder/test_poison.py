"""Pictures that bring down whoever looks at them: what they cost, and that it is only that."""

import pytest

from app.embedder.quarantine import STRIKES, Quarantine
from app.errors import ImageQuarantined, InvalidEmbedding, WorkerCrashed
from app.vision.faces import Analysis
from tests.embedder.pools import CLIENTS, Crowd, at_once, faces, is_same, running_pool, sha256
from tests.service.running import eventually

pytestmark = pytest.mark.slow

POISON, *HARMLESS = faces(9)


def test_a_poison_picture_costs_two_workers_and_is_refused_until_it_is_cleared(tmp_path, models):
    faults = {POISON: "segfault"}
    with running_pool(tmp_path / "pool", models, faults=faults, embedder_workers=3) as pool:
        right = [pool.analyze(image) for image in HARMLESS]
        with Crowd(pool, HARMLESS) as crowd:
            crowd.wait_for_more(CLIENTS)
            answers = at_once(*[lambda: pool.analyze(POISON, client="poisoner")] * CLIENTS)
            answers += at_once(*[lambda: pool.analyze(POISON)] * CLIENTS)
            pool.wait_until_whole()
            crowd.wait_for_more(CLIENTS)
        assert {type(answer) for answer in answers[:CLIENTS]} <= {ImageQuarantined, WorkerCrashed}
        assert {type(answer) for answer in answers[CLIENTS:]} == {ImageQuarantined}
        eventually(lambda: pool.deaths() == {"sigsegv": 2})
        assert crowd.wrong(right) == []
        assert [(held.sha256, held.cause) for held in pool.client.quarantined()] == [(sha256(POISON), "sigsegv")]

        assert pool.stop() == 0
        pool.start(faults)
        assert isinstance(pool.analyze(POISON), ImageQuarantined)
        assert pool.deaths() == {}

        assert pool.stop() == 0
        pool.start({})  # mended
        assert isinstance(pool.analyze(POISON), ImageQuarantined)
        assert pool.client.clear_quarantine(sha256(POISON)) == 1
        assert pool.client.quarantined() == []
        assert len(pool.analyze(POISON).faces) == len(right[5].faces)


def test_what_is_safe_for_one_is_not_taken_as_safe_for_all(tmp_path, models):
    """Of faces that are only looked for, no worker dies here; that says nothing of embedding them."""
    with running_pool(tmp_path / "pool", models, faults={POISON: "segfault@embed"}, embedder_workers=3) as pool:
        look = [lambda: pool.analyze(POISON, embed="none", client="looking")] * CLIENTS
        assert {type(answer) for answer in at_once(*look)} == {Analysis}
        answers = at_once(*look, *[lambda: pool.analyze(POISON, client="poisoner")] * CLIENTS)
        assert {type(answer) for answer in answers[CLIENTS:]} == {ImageQuarantined}
        assert {type(answer) for answer in answers[:CLIENTS]} <= {Analysis, ImageQuarantined}
        pool.wait_until_whole()
        eventually(lambda: pool.deaths() == {"sigsegv": 2})


def test_a_face_that_the_model_makes_nothing_of_is_a_typed_error_and_costs_no_worker(tmp_path, models):
    with running_pool(tmp_path / "pool", models, faults={POISON: "nothing"}, embedder_workers=1) as pool:
        before = [worker.pid for worker in pool.workers()]
        answers = [pool.analyze(POISON) for _ in range(STRIKES + 1)]
        assert {type(answer) for answer in answers} == {InvalidEmbedding}
        assert isinstance(pool.analyze(HARMLESS[0]), Analysis)
        assert [worker.pid for worker in pool.workers()] == before


def test_a_quarantine_ends(tmp_path, models):
    with running_pool(
        tmp_path / "pool", models, faults={POISON: "abort"}, embedder_workers=2, quarantine_s=10.0
    ) as pool:
        for deaths in (2, 4):
            assert isinstance(pool.analyze(POISON), ImageQuarantined)
            eventually(lambda deaths=deaths: pool.deaths() == {"sigabrt": deaths})
            pool.wait_until_whole()
            eventually(lambda: pool.client.quarantined() == [])


@pytest.mark.parametrize(
    "damage", [b"", b"\xff", b"[]", b"{", b'{"a": 1}', b'{"a": {"strikes": {"": "x"}, "cause": "", "expires_at": 9e9}}']
)
def test_a_damaged_quarantine_begins_anew(tmp_path, damage):
    file = tmp_path / "quarantine.json"
    file.write_bytes(damage)
    quarantine = Quarantine(file, 60)
    for _ in range(STRIKES):
        quarantine.strike(sha256(POISON), "sigsegv")
    assert Quarantine(file, 60).holds(sha256(POISON))


def test_a_quarantine_that_cannot_be_written_lasts_until_the_pool_ends(tmp_path):
    (tmp_path / "quarantine.json").mkdir()
    quarantine = Quarantine(tmp_path / "quarantine.json", 60)
    for _ in range(STRIKES):
        quarantine.strike(sha256(POISON), "sigsegv")
    assert quarantine.holds(sha256(POISON))
    assert quarantine.clear() == 1
    assert not quarantine.holds(sha256(POISON))


def test_a_picture_that_takes_all_memory_costs_its_own_workers_only(tmp_path, models):
    with running_pool(
        tmp_path / "pool", models, faults={POISON: "bomb"}, embedder_workers=3, embedder_memory_mb=640
    ) as pool:
        right = [pool.analyze(image) for image in HARMLESS]
        with Crowd(pool, HARMLESS) as crowd:
            answers = at_once(*[lambda: pool.analyze(POISON, client="bomber")] * CLIENTS)
            pool.wait_until_whole()
            crowd.wait_for_more(CLIENTS)
        assert {type(answer) for answer in answers} <= {ImageQuarantined, WorkerCrashed}
        eventually(lambda: pool.deaths() == {"memory": 2})
        assert [held.cause for held in pool.client.quarantined()] == ["memory"]
        assert crowd.wrong(right) == []


def test_a_picture_that_another_end_befell_is_not_blamed_for_good(tmp_path, models):
    """One death may have any reason; when the picture is next worked off well, it is forgotten."""
    with running_pool(tmp_path / "pool", models, faults={POISON: "dawdle"}, embedder_workers=2) as pool:
        for _ in range(3):
            pool.wait_until_idle()

            def kill_the_first() -> None:
                eventually(pool.busy)
                pool.end(pool.busy()[0].pid)

            answer, _ = at_once(lambda: pool.analyze(POISON), kill_the_first)
            assert is_same(answer, pool.analyze(POISON))
            pool.wait_until_whole()
        eventually(lambda: pool.deaths() == {"sigkill": 3})
        assert pool.client.quarantined() == []
