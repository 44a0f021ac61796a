"""What the pool and the web add to the engine: in time for one picture, and in throughput with all cores busy."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import click
import numpy as np

from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from scripts.benchmarks.bare_web import bare_web
from scripts.benchmarks.engines import MAX_PIXELS, EngineProcesses, open_engine
from scripts.benchmarks.load import OneClient, closed_loop, open_loop, upload
from scripts.benchmarks.pictures import photos
from scripts.benchmarks.processes import cpu_by_role, members
from scripts.benchmarks.report import Timing, cores, show, time_interleaved
from scripts.benchmarks.running import Service, temporary_service

_PATH = "/v1/embeddings"
_LATENCY_AIM, _THROUGHPUT_AIM = 1.15, 0.9
# Pictures in a row: the engine here and the one in a worker each have a model, and caches hold one.
_TURN = 20
# So that a worker never waits for somebody to ask.
_CLIENTS_PER_WORKER = 4
_WARM = 200


@click.command()
@click.option(
    "--runs", type=click.IntRange(min=2), default=400, show_default=True, help="Pictures each way, one at a time."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="With all cores busy, each way."
)
@click.option("--seconds", type=click.FloatRange(min=1), default=10, show_default=True, help="Of each round.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def pool(runs: int, rounds: int, seconds: float, as_json: bool) -> None:
    """The same pictures through the bare engine, through the pool's socket and through HTTP."""
    pictures = [path.read_bytes() for path in photos()]
    with temporary_service({"EMBEDDER_MAX_REQUESTS": "0"}) as service:
        timings = time_interleaved(_ways(service, pictures), runs, turn=_TURN)
        facts = _latency_facts(timings) | _throughput_facts(service, pictures, rounds, seconds)
    facts["pictures"] = f"{len(pictures)}; {_PATH}, multipart"
    show("One picture at a time: the engine, the pool, HTTP and the pool", timings, facts, as_json=as_json)


def _ways(service: Service, pictures: Sequence[bytes]) -> dict[str, Callable[[int], object]]:
    engine = open_engine(service.storage / "models")
    client = EmbedderClient(service.pool_address)
    http = OneClient(service.port)
    uploads = _uploads(service, pictures)
    return {
        "engine": lambda run: engine.analyze(pictures[run % len(pictures)], max_pixels=MAX_PIXELS),
        "pool": lambda run: client.analyze(pictures[run % len(pictures)], deadline=Deadline.after(10)),
        "HTTP and pool": lambda run: http.ask(uploads[run % len(uploads)]),
    }


def _uploads(service: Service, pictures: Sequence[bytes]) -> list[bytes]:
    return [upload(_PATH, {}, [("file", picture)], service.key) for picture in pictures]


def _latency_facts(timings: list[Timing]) -> dict[str, object]:
    engine = timings[0]
    facts: dict[str, object] = {}
    for timing in timings[1:]:
        p50, p95 = timing.median_ms / engine.median_ms, timing.p95_ms / engine.p95_ms
        facts[f"{timing.name} over the engine"] = f"{p50:.3f} at p50, {p95:.3f} at p95"
    ratio = timings[-1].median_ms / engine.median_ms
    facts[f"at p50 at most {_LATENCY_AIM}"] = "yes" if ratio <= _LATENCY_AIM else f"NO, {ratio:.3f}"
    return facts


def _throughput_facts(service: Service, pictures: Sequence[bytes], rounds: int, seconds: float) -> dict[str, object]:
    """As many engines as the pool has workers, each in a process, and the service: taking turns."""
    workers, uploads = cores(), _uploads(service, pictures)
    own: list[tuple[float, float]] = []
    served: list[float] = []
    used: dict[str, float] = {"clients": 0.0}
    answered = 0
    with EngineProcesses(workers, service.storage / "models", pictures) as engines:
        engines.run(1.0)
        for _ in range(rounds):
            own.append(engines.run(seconds))
            found = members(service.pid)
            before = cpu_by_role(found)
            load = closed_loop(service.port, uploads, workers * _CLIENTS_PER_WORKER, seconds=seconds)
            if load.counts.keys() != {"200"}:
                raise click.ClickException(f"Not all were answered: {load.counts}")
            for role, cpu_s in cpu_by_role(found).items():
                used[role] = used.get(role, 0.0) + cpu_s - before[role]
            used["clients"] += load.cpu_s
            answered += len(load.answers)
            served.append(load.rate)
        bare_ms = _bare_web_ms(engines, uploads, float(np.median(served)), seconds)
    own_rate, own_cpu_ms = float(np.median([rate for rate, _ in own])), float(np.median([s for _, s in own])) * 1e3
    ratio = float(np.median(served)) / own_rate
    cpu_ms = {role: cpu_s / answered * 1e3 for role, cpu_s in used.items()}
    return {
        f"all {workers} cores busy, engines alone": f"{own_rate:.1f} pictures a second",
        "through HTTP and pool": f"{np.median(served):.1f} pictures a second, {ratio:.3f} of it",
        f"at least {_THROUGHPUT_AIM}": "yes" if ratio >= _THROUGHPUT_AIM else f"NO, {ratio:.3f}",
        "processor time a picture, engine alone": f"{own_cpu_ms:.2f} ms",
        "through HTTP and pool, all processes": f"{sum(cpu_ms.values()):.2f} ms: "
        + ", ".join(f"{role} {ms:.2f}" for role, ms in cpu_ms.items() if ms >= 0.005),
        "a bare Flask view under Gunicorn, as often, beside busy engines": f"{bare_ms:.2f} ms with its clients; "
        f"a pool that costs nothing would reach {own_cpu_ms / (own_cpu_ms + bare_ms):.3f}",
    }


def _bare_web_ms(engines: EngineProcesses, uploads: Sequence[bytes], rate: float, seconds: float) -> float:
    """Processor time of the least that has to be done for a request, with caches as cold as engines leave them."""
    with bare_web() as web, ThreadPoolExecutor(1) as beside:
        closed_loop(web.port, uploads, 2 * _CLIENTS_PER_WORKER, count=_WARM)
        busy = beside.submit(engines.run, seconds + 2.0)
        before_s = web.cpu_s()
        load = open_loop(web.port, uploads, rate=rate, seconds=seconds)
        used_s = web.cpu_s() - before_s + load.cpu_s
        busy.result()
    if load.counts.keys() != {"200"}:
        raise click.ClickException(f"Not all were answered: {load.counts}")
    return used_s / len(load.answers) * 1e3
