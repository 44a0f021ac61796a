"""`/recognize` from the first byte of the request to the last of the answer, over what the bare engine takes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from app.vision.engine import FaceEngine
from scripts.benchmarks.engines import MAX_PIXELS, EngineProcesses, open_engine
from scripts.benchmarks.load import Load, OneClient, closed_loop, upload
from scripts.benchmarks.people import DOMAIN, fill, split_photos
from scripts.benchmarks.pictures import large_photo
from scripts.benchmarks.processes import cpu_by_role, members
from scripts.benchmarks.report import Table, Timing, cores, show, time_interleaved, verdict
from scripts.benchmarks.running import Service, temporary_service

_AIM = 1.2
_LARGE = 8
# Pictures in a row: the engine here and the one in a worker each have a model, and caches hold one. No longer than a second
# or so: the web closes a connection that was idle for five.
_TURN = {"250px": 20, "12mp": 4}
# On a slow machine, the last of 16 clients would wait for longer than the pool lets anybody wait.
_ALLOWED = frozenset({"200", "503 pool_busy"})


@click.command()
@click.option(
    "--picture",
    type=click.Choice(tuple(_TURN)),
    default="250px",
    show_default=True,
    help="Test pictures of 250 pixels as they are, or photos of 12 megapixels made of them.",
)
@click.option("--templates", type=click.IntRange(min=0), default=23_640, show_default=True, help="In the gallery.")
@click.option(
    "--runs", type=click.IntRange(min=2), default=300, show_default=True, help="Pictures each way, one by one."
)
@click.option(
    "--clients",
    default="1,2,4,8,16",
    show_default=True,
    help="So many at a time, one number after the other; empty: none.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=5, show_default=True, help="Of each number of clients."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def recognize(picture: str, templates: int, runs: int, clients: str, seconds: float, as_json: bool) -> None:
    """The same pictures through the bare engine and through /recognize, by stage; then 1 to 16 clients at a time."""
    counts = _counts(clients)
    enrolled, probes = _pictures(picture)
    with temporary_service({"EMBEDDER_MAX_REQUESTS": "0"}) as service:
        fill(service, DOMAIN, enrolled, templates)
        uploads = [upload("/recognize", {"domain": DOMAIN}, [("file", probe)], service.key) for probe in probes]
        told = _Told()
        timings = time_interleaved(_ways(service, probes, uploads, told), runs, turn=_TURN[picture])
        told.forget(first=1)  # of the run that is not counted
        tables = [told.by_stage(timings)]
        if counts:
            tables.append(_by_clients(service, probes, uploads, counts, seconds))
    ratio = timings[1].median_ms / timings[0].median_ms
    facts = {
        "/recognize over the engine, p50": verdict(ratio, _AIM),
        "p95, p99": ", ".join(f"{there / own:.3f}" for there, own in _tails(timings)),
        "pictures": f"{len(probes)} of {picture}, {np.mean([len(probe) for probe in probes]) / 1e3:.0f} kB on average",
        "gallery": f"{templates} templates made up, one a person, and {len(enrolled)} of photos",
        "named": f"{told.named} of {told.answers} answers named somebody",
    }
    show("One picture at a time: the engine, /recognize", timings, facts, as_json=as_json, tables=tables)


@dataclass(slots=True)
class _Told:
    """What the answers say of themselves, and what the engine says of its own stages; milliseconds."""

    answers: int = 0
    named: int = 0
    own: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    served: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def by_engine(self, timings_ms: dict[str, float]) -> None:
        for stage, spent_ms in timings_ms.items():
            self.own[stage].append(spent_ms)

    def by_answer(self, answer: dict[str, Any]) -> None:
        self.answers += 1
        self.named += bool(answer["recognized_persons"])
        stages = answer["timings_ms"]
        for stage, spent_ms in stages.items():
            self.served[stage].append(spent_ms)
        self.served["rest of the answer's own time"].append(answer["elapsed_time"] * 1e3 - sum(stages.values()))
        self.served["elapsed"].append(answer["elapsed_time"] * 1e3)

    def forget(self, *, first: int) -> None:
        """The first so many of each."""
        for row in (*self.own.values(), *self.served.values()):
            del row[:first]

    def by_stage(self, timings: list[Timing]) -> Table:
        """The medians: of the engine alone, and on the way of a request."""
        own = {stage: float(np.median(row)) for stage, row in self.own.items()}
        served = {stage: float(np.median(row)) for stage, row in self.served.items()}
        before_and_after = timings[1].median_ms - served.pop("elapsed")
        rows: list[tuple[object, ...]] = [
            (stage, own.get(stage, ""), spent_ms, spent_ms - own.get(stage, 0.0)) for stage, spent_ms in served.items()
        ]
        rows.append(("HTTP, before and after that", "", before_and_after, before_and_after))
        engine, request = timings[0].median_ms, timings[1].median_ms
        rows.append(("all", engine, request, request - engine))
        return Table("Where the time goes, ms at p50", ("stage", "engine alone", "/recognize", "more"), rows)


def _counts(clients: str) -> list[int]:
    try:
        counts = [int(count) for count in clients.split(",") if count.strip()]
    except ValueError:
        counts = [0]
    if not all(1 <= count <= 256 for count in counts):
        raise click.BadParameter("Numbers from 1 to 256, with commas between.", param_hint="--clients")
    return counts


def _pictures(kind: str) -> tuple[list[Path], list[bytes]]:
    """Those to enrol, and the bytes of those to recognise."""
    enrolled, probes = split_photos()
    if kind == "12mp":
        step = max(1, len(probes) // _LARGE)
        return enrolled, [large_photo(path) for path in probes[::step][:_LARGE]]
    return enrolled, [path.read_bytes() for path in probes]


def _ways(
    service: Service, probes: Sequence[bytes], uploads: Sequence[bytes], told: _Told
) -> dict[str, Callable[[int], object]]:
    engine: FaceEngine = open_engine(service.storage / "models")
    http = OneClient(service.port)

    def alone(run: int) -> None:
        told.by_engine(engine.analyze(probes[run % len(probes)], max_pixels=MAX_PIXELS).timings_ms)

    return {"engine": alone, "/recognize": lambda run: told.by_answer(http.ask(uploads[run % len(uploads)]))}


def _by_clients(
    service: Service, probes: Sequence[bytes], uploads: Sequence[bytes], counts: Sequence[int], seconds: float
) -> Table:
    """For each number of clients: what they got, beside as many engines as there are cores at most, in turn with them."""
    rows: list[tuple[object, ...]] = []
    workers = cores()
    with EngineProcesses(workers, service.storage / "models", probes) as engines:
        engines.run(min(1.0, seconds))
        for count in counts:
            most, _ = engines.run(seconds)
            before = cpu_by_role(members(service.pid))
            load = closed_loop(service.port, uploads, count, seconds=seconds)
            after = cpu_by_role(members(service.pid))
            if not load.counts.keys() <= _ALLOWED:
                raise click.ClickException(f"With {count} clients not all were answered: {load.counts}")
            rows.append(_row(count, load, most, {role: after[role] - before.get(role, 0.0) for role in after}))
    columns = (
        "clients",
        "answers",
        "refused",
        "a second",
        f"of {workers} engines alone",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "min ms",
        "CPU ms an answer",
    )
    return Table("Several clients at a time", columns, rows)


def _row(count: int, load: Load, most: float, used_s: dict[str, float]) -> tuple[object, ...]:
    quantiles = [load.quantile_ms(quantile) for quantile in (0.5, 0.95, 0.99, 0.0)]
    each = {role: spent_s / len(load.answers) * 1e3 for role, spent_s in used_s.items()}
    cpu = ", ".join(f"{role} {spent_ms:.1f}" for role, spent_ms in each.items() if spent_ms >= 0.05)
    return (
        count,
        len(load.succeeded),
        len(load.answers) - len(load.succeeded),
        load.rate,
        load.rate / most,
        *quantiles,
        cpu,
    )


def _tails(timings: list[Timing]) -> list[tuple[float, float]]:
    own, served = timings
    return [(served.p95_ms, own.p95_ms), (served.p99_ms, own.p99_ms)]
