"""More requests than the pool can take: what is refused, and how long those wait that are not."""

import json

import click
import numpy as np

from app.config import Settings
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
@click.option("--queue-s", type=click.FloatRange(min=0.01), help="EMBEDDER_QUEUE_S; else its default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def overload(seconds: float, factor: float, queue: int | None, queue_s: float | None, as_json: bool) -> None:
    """Measure latency without load and the most that is answered, then send several times as much, whatever comes back."""
    given = {"embedder_queue": queue, "embedder_queue_s": queue_s}
    settings = Settings(_env_file=None, **{name: value for name, value in given.items() if value is not None})
    env = {"EMBEDDER_QUEUE": str(settings.embedder_queue), "EMBEDDER_QUEUE_S": str(settings.embedder_queue_s)}
    with temporary_service(env) as service:
        service.create_domain(_DOMAIN)
        fields, key = {"domain": _DOMAIN}, service.key
        uploads = [upload("/recognize", fields, [("file", path.read_bytes())], key) for path in photos()]
        alone = closed_loop(service.port, uploads, 1, count=300)
        busy = closed_loop(service.port, uploads, cores() * _CLIENTS_PER_WORKER, seconds=15)
        # Where a short queue is asked for, or the machine is slow, some of these clients are too many already.
        for load, allowed in ((alone, {"200"}), (busy, _ALLOWED)):
            if not load.counts.keys() <= allowed:
                raise click.ClickException(f"Not all were answered without overload: {load.counts}")
        pids = _pids(service)
        over = open_loop(service.port, uploads, rate=busy.rate * factor, seconds=seconds)
        lost = pids - _pids(service)
    facts = _facts(alone, busy, over, settings.embedder_queue_s * 1e3) | {
        "the queue's bounds": f"{settings.embedder_queue_s * 1e3:.0f} ms, {settings.embedder_queue} jobs",
        "processes lost": len(lost),
    }
    if as_json:
        click.echo(json.dumps({"machine": machine()} | facts, indent=2))
        return
    click.echo(", ".join(f"{key}: {value}" for key, value in machine().items()) + "\n")
    click.echo("\n".join(f"{key}: {value}" for key, value in facts.items()))


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
