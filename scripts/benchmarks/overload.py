"""More requests than the pool can take: what is refused, and how long those wait that are not."""

import json
import re
from dataclasses import dataclass
from typing import Self

import click
import numpy as np

from app.config import Settings
from app.embedder.client import EmbedderClient
from scripts.benchmarks.load import Load, closed_loop, open_loop, upload
from scripts.benchmarks.pictures import photos
from scripts.benchmarks.processes import members
from scripts.benchmarks.report import cores, machine
from scripts.benchmarks.running import Service, temporary_service

_DOMAIN = "people"
_ALLOWED = frozenset({"200", "503 pool_busy"})
_CLIENTS_PER_WORKER = 4


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="Of overload.")
@click.option(
    "--factor", type=click.FloatRange(min=1), default=2.0, show_default=True, help="Of what the service can take."
)
@click.option("--queue", type=click.IntRange(min=1), help="EMBEDDER_QUEUE; else its default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def overload(seconds: float, factor: float, queue: int | None, as_json: bool) -> None:
    """Measure latency without load and the most that is answered, then send several times as much, whatever comes back."""
    settings = Settings(_env_file=None, **({"embedder_queue": queue} if queue else {}))
    with temporary_service({"EMBEDDER_QUEUE": str(settings.embedder_queue)}) as service:
        service.create_domain(_DOMAIN)
        fields, key = {"domain": _DOMAIN}, service.key
        uploads = [upload("/recognize", fields, [("file", path.read_bytes())], key) for path in photos()]
        alone = closed_loop(service.port, uploads, 1, count=300)
        busy = closed_loop(service.port, uploads, cores() * _CLIENTS_PER_WORKER, seconds=15)
        for load in (alone, busy):
            if load.counts.keys() != {"200"}:
                raise click.ClickException(f"Not all were answered without overload: {load.counts}")
        pids, jobs = _pids(service), _Jobs.of(service)
        over = open_loop(service.port, uploads, rate=busy.rate * factor, seconds=seconds)
        job_ms = _Jobs.of(service).mean_ms_since(jobs)
        lost = pids - _pids(service)
    # What the last place in the queue waits for: all before it, worked off by all workers.
    queue_ms = settings.embedder_queue / settings.embedder_workers * job_ms
    facts = _facts(alone, busy, over, queue_ms) | {
        "the queue's bound": f"{queue_ms:.0f} ms: {settings.embedder_queue} jobs of {job_ms:.1f} ms, "
        f"{settings.embedder_workers} workers",
        "processes lost": len(lost),
    }
    if as_json:
        click.echo(json.dumps({"machine": machine()} | facts, indent=2))
        return
    click.echo(", ".join(f"{key}: {value}" for key, value in machine().items()) + "\n")
    click.echo("\n".join(f"{key}: {value}" for key, value in facts.items()))


@dataclass(frozen=True, slots=True)
class _Jobs:
    """What the pool has counted: so many jobs, for which workers took so long altogether."""

    count: float
    seconds: float

    @classmethod
    def of(cls, service: Service) -> Self:
        metrics = EmbedderClient(service.pool_address).metrics().decode()
        found = dict(re.findall(r"^facedex_pool_job_seconds_(count|sum) (\S+)$", metrics, re.MULTILINE))
        return cls(float(found["count"]), float(found["sum"]))

    def mean_ms_since(self, earlier: Self) -> float:
        return (self.seconds - earlier.seconds) / (self.count - earlier.count) * 1e3


def _pids(service: Service) -> set[int]:
    return {member.process.pid for member in members(service.pid) if member.role in ("web", "pool", "worker")}


def _facts(alone: Load, busy: Load, over: Load, queue_ms: float) -> dict[str, object]:
    """The figures, and what is to be made of them."""
    others = sum(number for outcome, number in over.counts.items() if outcome not in _ALLOWED)
    bound_ms, p99_ms = 2 * alone.quantile_ms(0.99) + queue_ms, over.quantile_ms(0.99)
    refused = [answer.elapsed_ms for answer in over.answers if answer.status == 503]
    return {
        "one at a time": f"p50 {alone.quantile_ms(0.5):.1f} ms, p99 {alone.quantile_ms(0.99):.1f} ms",
        "most that is answered": f"{busy.rate:.1f} a second",
        "overload": f"{len(over.answers)} in {over.elapsed_s:.1f} s",
        "answers": over.counts,
        "anything but 200 and pool_busy": f"{others}: {'yes' if others else 'no'}",
        "answered": f"{over.rate:.1f} a second, {over.rate / busy.rate:.2f} of the most",
        "those answered": f"p50 {over.quantile_ms(0.5):.0f} ms, p99 {p99_ms:.0f} ms",
        "p99, at most 2 x p99 alone and the queue's bound": (
            f"{p99_ms:.0f} ms of {bound_ms:.0f} ms: {'yes' if p99_ms <= bound_ms else 'NO'}"
        ),
        "those refused": (
            f"p50 {np.median(refused):.0f} ms, p99 {np.quantile(refused, 0.99):.0f} ms" if refused else "nobody"
        ),
        "the clients' own processor time": f"{over.cpu_s / over.elapsed_s * 100:.0f} % of a core",
    }
