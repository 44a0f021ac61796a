"""From the start of the program to its first answer, and what takes the time."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import httpx

from app.config import PROJECT_ROOT
from scripts.benchmarks.databases import forget_files
from scripts.benchmarks.people import DOMAIN
from scripts.benchmarks.pictures import portrait
from scripts.benchmarks.report import Table, show, summary
from scripts.benchmarks.running import Service

_STEP = re.compile(rb"^facedex: (.*)$")
# The least that any answer needs: the libraries, the model, one picture.
_ENGINE = """
import sys
from pathlib import Path
from app.vision.engine import load_engine
from app.vision.packs import PackStore
engine = load_engine(PackStore(Path(sys.argv[1])).active(None))
engine.analyze(Path(sys.argv[2]).read_bytes(), max_pixels=64_000_000)
"""
_WITHIN_S = 180.0


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Starts, each way.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def startup(runs: int, as_json: bool) -> None:
    """From exec to the first recognition: the very first start, from a cold disk, and warm; beside the bare engine."""
    times: dict[str, list[float]] = {"engine": [], "first start ever": [], "files not in memory": [], "warm": []}
    steps: dict[str, list[tuple[str, float]]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder:
            service = _Watched(Path(folder))
            for way in ("first start ever", "files not in memory", "warm"):
                if way == "files not in memory":
                    forget_files(service.storage)
                    forget_files(Path(sys.prefix) / "lib")
                times[way].append(service.first_answer_ms(create=way == "first start ever"))
                steps[way] = service.steps
                service.stop()
            times["engine"].append(_engine_ms(service.storage / "models"))
    timings = [summary(name, row) for name, row in times.items()]
    engine, *starts = timings
    facts = {f"{start.name} over the engine": round(start.median_ms / engine.median_ms, 2) for start in starts}
    tables = [
        Table(f"What takes the time: {way}, the last run", ("until", "s"), list(found)) for way, found in steps.items()
    ]
    show("From exec to the first answer", timings, facts, as_json=as_json, tables=tables)


class _Watched(Service):
    """A service whose words at the terminal are kept with the time at which they came."""

    steps: list[tuple[str, float]]

    def first_answer_ms(self, *, create: bool) -> float:
        """Start it, and ask until somebody's face is searched; milliseconds from exec."""
        started_s = time.perf_counter()
        self.spawn(stderr=subprocess.PIPE)
        self._read_until_ready(started_s)
        with httpx.Client(base_url=self.url, headers=self.key, timeout=30) as http:
            if create:
                http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status()
            answer = http.post("/recognize", data={"domain": DOMAIN}, files={"file": portrait().read_bytes()})
            answer.raise_for_status()
        took_s = time.perf_counter() - started_s
        self.steps.append(("the first answer", took_s))
        return took_s * 1e3

    def _read_until_ready(self, started_s: float) -> None:
        process = self.process
        assert process.stderr is not None
        self.steps = []
        for line in process.stderr:
            if found := _STEP.match(line.strip()):
                self.steps.append((found[1].decode(), time.perf_counter() - started_s))
                if found[1].startswith(b"ready after"):
                    return
            if time.perf_counter() - started_s > _WITHIN_S:
                break
        raise click.ClickException(f"The service did not start: {self.steps}")


def _engine_ms(models: Path) -> float:
    started_s = time.perf_counter()
    argv = [sys.executable, "-c", _ENGINE, str(models), str(portrait())]
    subprocess.run(argv, cwd=PROJECT_ROOT, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, check=True)
    return (time.perf_counter() - started_s) * 1e3
