"""Workers that have done enough are replaced, and nobody waits for it."""

import threading

import pytest

from tests.embedder.pools import CLIENTS, Crowd, faces, running_pool
from tests.service.running import eventually

pytestmark = pytest.mark.slow

LEAKY, *HARMLESS = faces(9)


class Watch:
    """How few workers were able to work, for as long as the `with` lasts."""

    def __init__(self, pool) -> None:
        self.fewest = pool.size
        self.samples = 0
        self._pool = pool
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.fewest = min(self.fewest, self._pool.loaded())
            self.samples += 1

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_worker_is_replaced_after_so_many_jobs_and_none_is_missing_meanwhile(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=2, embedder_max_requests=10) as pool:
        with Crowd(pool, HARMLESS) as crowd, Watch(pool) as watch:
            eventually(lambda: pool.deaths().get("recycled_jobs", 0) >= 6)
        assert watch.samples
        assert watch.fewest == pool.size
        assert set(pool.deaths()) == {"recycled_jobs"}
        right = [pool.analyze(image) for image in HARMLESS]
        assert crowd.wrong(right) == []
        # Each request was one job: none was broken off and tried again.
        eventually(
            lambda: pool.jobs() == {"ok": len(crowd.answers) + len(HARMLESS)}
        )  # a worker answers first, then tells


def test_a_worker_is_replaced_above_its_memory(tmp_path, models):
    faults = {LEAKY: "leak"}
    with running_pool(tmp_path / "first", models, faults=faults, embedder_workers=1) as pool:
        pool.analyze(HARMLESS[0])
        (worker,) = pool.workers()
    ceiling_mb = (worker.rss_bytes >> 20) + 100  # more than one leak, less than two
    with running_pool(
        tmp_path / "pool", models, faults=faults, embedder_workers=2, embedder_recycle_mb=ceiling_mb
    ) as pool:
        right = [pool.analyze(image) for image in HARMLESS]
        with Crowd(pool, HARMLESS) as crowd, Watch(pool) as watch:
            while pool.deaths().get("recycled_memory", 0) < 2:
                pool.analyze(LEAKY)
            eventually(lambda: max(worker.rss_bytes for worker in pool.workers()) >> 20 <= ceiling_mb)
        assert watch.fewest == pool.size
        assert set(pool.deaths()) == {"recycled_memory"}
        assert crowd.wrong(right) == []
        assert set(pool.jobs()) == {"ok"}
        assert len(crowd.answers) >= CLIENTS


def test_a_worker_whose_successor_cannot_be_loaded_goes_on(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=1, embedder_max_requests=3) as pool:
        right = [pool.analyze(image) for image in HARMLESS[:2]]
        manifest = pool.settings.models_dir / "dlib/manifest.json"
        kept = manifest.rename(manifest.with_suffix(".kept"))
        manifest.write_text("{")
        (worker,) = pool.workers()
        with Crowd(pool, HARMLESS[:2]) as crowd:
            crowd.wait_for_more(100)
            eventually(lambda: pool.deaths().get("not_loaded", 0) >= 2)
            # After each job another one would be due: it is tried again after pauses that grow.
            assert pool.deaths()["not_loaded"] < 20
            assert [(worker.pid, worker.is_loaded) for worker in pool.workers()] == [(worker.pid, True)]
            kept.rename(manifest)
            eventually(lambda: pool.deaths().get("recycled_jobs", 0) >= 1)
        assert crowd.wrong(right) == []
