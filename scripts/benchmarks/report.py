"""Times of one run as a table or JSON."""

import json
from dataclasses import asdict

import click

from app.benchmark.timing import Timing, cores, machine, summary, time_interleaved

__all__ = ["Timing", "cores", "machine", "show", "summary", "time_interleaved"]


def show(title: str, timings: list[Timing], facts: dict[str, object], *, as_json: bool) -> None:
    """Print a table, or one JSON object. The ratio is that of the first way's median to each."""
    slowest = timings[0].median_ms
    if as_json:
        rows = [asdict(timing) | {"ratio": slowest / timing.median_ms} for timing in timings]
        click.echo(json.dumps({"title": title, "machine": machine(), "timings": rows} | facts, indent=2))
        return
    click.echo(f"{title}\n{', '.join(f'{key}: {value}' for key, value in machine().items())}\n")
    click.echo(f"{'':<28} {'runs':>5} {'median':>10} {'p95':>10} {'min':>10} {'ratio':>7}")
    for timing in timings:
        spans = " ".join(f"{span:>7.2f} ms" for span in (timing.median_ms, timing.p95_ms, timing.min_ms))
        click.echo(f"{timing.name:<28} {timing.runs:>5} {spans} {slowest / timing.median_ms:>6.1f}x")
    click.echo("\n" + "\n".join(f"{key}: {value}" for key, value in facts.items()))
