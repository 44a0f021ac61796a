"""From VECTOR_DB_ENABLED=true to a first answer with `mode: "pkl"`: by a reload, and by a restart."""

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import numpy as np

from app.datasets.deepface_export import write_deepface
from app.datasets.names import deepface_file_name
from app.datasets.rows import DatasetRow
from app.vision.faces import Box
from scripts.benchmarks.pictures import portrait
from scripts.benchmarks.report import Timing, show, summary
from scripts.benchmarks.running import Service

_DOMAIN = "slovenia"
_DIMENSION = 128
_LIMIT_S = 30.0
_ANSWERS_WITHIN_S = 180.0


@click.command()
@click.option("--persons", type=click.IntRange(min=1), default=2_625, show_default=True)
@click.option("--rows", type=click.IntRange(min=1), default=23_640, show_default=True, help="Vectors in the dataset.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Rollbacks each way.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def rollback(persons: int, rows: int, runs: int, as_json: bool) -> None:
    """Edit the settings, restart or reload, and ask until the PKL service answers."""
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder, _Service(Path(folder)) as service:
        _write_dataset(service.storage / "pkl" / _DOMAIN, persons, rows)
        service.switch(True)
        service.start()
        service.create_domain(_DOMAIN)
        ways: dict[str, Callable[[], None]] = {"restart": service.restart, "reload": service.reload}
        times: dict[str, list[float]] = {name: [] for name in ways}
        answers: Counter[str] = Counter()
        for _ in range(runs):
            for name, way in ways.items():
                service.ask_until("pgvector")
                with service.clients() if name == "reload" else _nobody() as seen:
                    times[name].append(_timed(service, way))
                answers.update(seen)
                service.switch(True)
                service.reload()
    slowest_s = max(map(max, times.values())) / 1000
    facts: dict[str, object] = {
        "dataset": f"{rows} vectors of {_DIMENSION} dimensions, {persons} persons",
        f"slowest, at most {_LIMIT_S:g} s": f"{slowest_s:.1f} s: {'yes' if slowest_s <= _LIMIT_S else 'NO'}",
        "answers to two clients during the reloads": json.dumps(dict(sorted(answers.items()))),
    }
    timings: list[Timing] = [summary(name, row) for name, row in times.items()]
    show('Rollback: from the edited settings to a first answer with mode "pkl"', timings, facts, as_json=as_json)


def _timed(service: "_Service", way: Callable[[], None]) -> float:
    """Milliseconds from the edit of the settings to the first answer of the PKL service."""
    started_s = time.perf_counter()
    service.switch(False)
    way()
    service.ask_until("pkl")
    return (time.perf_counter() - started_s) * 1e3


def _write_dataset(folder: Path, persons: int, rows: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(rows, _DIMENSION)).astype(np.float32)
    made = (
        DatasetRow(f"person {n % persons}/{n}.jpg", f"person {n % persons}", vector, Box(1, 2, 30, 40), "dlib", "dlib")
        for n, vector in enumerate(vectors)
    )
    write_deepface(folder / deepface_file_name("dlib", "dlib"), made)


@contextmanager
def _nobody() -> Iterator[Counter[str]]:
    yield Counter()


class _Service(Service):
    """A service whose database is switched on and off, and those who ask it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._photo = portrait().read_bytes()

    def __enter__(self) -> "_Service":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def switch(self, enabled: bool) -> None:
        self.settings_file.write_text(f"VECTOR_DB_ENABLED={str(enabled).lower()}\n")

    def restart(self) -> None:
        self.stop()
        self.start()

    def ask_until(self, mode: str) -> None:
        """Ask until the answer has that mode."""
        until_s = time.monotonic() + _ANSWERS_WITHIN_S
        with httpx.Client() as http:
            while self._ask(http) != mode:
                if time.monotonic() > until_s:
                    raise click.ClickException(f"No answer with the mode {mode}.")

    @contextmanager
    def clients(self) -> Iterator[Counter[str]]:
        """Two clients that ask all the time; counts what they are answered."""
        seen: Counter[str] = Counter()
        done, lock = threading.Event(), threading.Lock()

        def client() -> None:
            with httpx.Client() as http:
                while not done.is_set():
                    answer = self._ask(http)
                    with lock:
                        seen[answer] += 1

        threads = [threading.Thread(target=client) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def _ask(self, http: httpx.Client) -> str:
        """The mode of one answer, or what went wrong."""
        try:
            answer = http.post(
                f"{self.url}/recognize",
                data={"domain": _DOMAIN},
                files={"file": self._photo},
                headers=self.key,
                timeout=30,
            )
        except httpx.TransportError as error:
            return type(error).__name__
        told = answer.json()
        return told["mode"] if answer.status_code == 200 else told["code"]
