"""Recognition beside sessions: whether any fails, how much longer it takes, and how many frames the sessions shed."""

import json
import re

import click
import httpx

from scripts.benchmarks.load import Load, closed_loop, upload
from scripts.benchmarks.pictures import photos
from scripts.benchmarks.report import machine
from scripts.benchmarks.running import Service, temporary_service
from scripts.benchmarks.streamers import Streamed, Streamers, streaming

_DOMAIN = "people"
_STREAMED = "streamed"
_WARM_UP = 40


@click.command()
@click.option("--streams", type=click.IntRange(min=1), default=50, show_default=True, help="Sessions at once.")
@click.option("--fps", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Frames a second of each.")
@click.option(
    "--clients", type=click.IntRange(min=1), default=4, show_default=True, help="That recognise, each in a loop."
)
@click.option("--seconds", type=click.FloatRange(min=1), default=30.0, show_default=True, help="Of each half.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Halves without and with sessions."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def sessions(streams: int, fps: float, clients: int, seconds: float, rounds: int, as_json: bool) -> None:
    """Clients that recognise, without and with sessions that stream frames beside them, in turn, in one run."""
    with temporary_service() as service:
        for domain in (_DOMAIN, _STREAMED):
            service.create_domain(domain)
        uploads = [
            upload("/recognize", {"domain": _DOMAIN}, [("file", path.read_bytes())], service.key) for path in photos()
        ]
        closed_loop(service.port, uploads, clients, count=_WARM_UP)
        streamers = Streamers(service.url, service.key, _STREAMED, _persons(), streams, fps)
        without, beside, seen = [], [], []
        for _ in range(rounds):
            without.append(closed_loop(service.port, uploads, clients, seconds=seconds))
            with streaming(streamers) as streamed:
                beside.append(closed_loop(service.port, uploads, clients, seconds=seconds))
            seen.append(streamed)
        facts = _facts(_together(without), _together(beside), seen) | {"counted by the service": _counted(service)}
    if as_json:
        click.echo(json.dumps({"machine": machine()} | facts, indent=2))
        return
    click.echo(", ".join(f"{key}: {value}" for key, value in machine().items()) + "\n")
    click.echo("\n".join(f"{key}: {value}" for key, value in facts.items()))


def _persons() -> list[list[bytes]]:
    """Pictures, those of one folder together."""
    found: dict[str, list[bytes]] = {}
    for path in photos():
        found.setdefault(path.parent.name, []).append(path.read_bytes())
    return list(found.values())


def _together(loads: list[Load]) -> Load:
    return Load(
        [answer for load in loads for answer in load.answers],
        sum(load.elapsed_s for load in loads),
        sum(load.cpu_s for load in loads),
    )


def _facts(without: Load, beside: Load, seen: list[Streamed]) -> dict[str, object]:
    p99_ms, bound_ms = beside.quantile_ms(0.99), 2 * without.quantile_ms(0.99)
    failed = len(beside.answers) - len(beside.succeeded)
    answers: dict[str, int] = {}
    for streamed in seen:
        for outcome, number in streamed.answers.items():
            answers[outcome] = answers.get(outcome, 0) + number
    seconds, sent = sum(streamed.seconds for streamed in seen), sum(streamed.sent for streamed in seen)
    looked_at = sum(streamed.looked_at for streamed in seen)
    dropped = sum(number for outcome, number in answers.items() if outcome.startswith("dropped"))
    return {
        "recognitions without sessions": _line(without),
        "recognitions beside sessions": _line(beside),
        "recognitions that failed beside sessions": f"{failed}: {'no' if not failed else 'YES'}",
        "p99, at most twice that without": f"{p99_ms:.0f} ms of {bound_ms:.0f} ms, ratio "
        f"{p99_ms / without.quantile_ms(0.99):.2f}: {'yes' if p99_ms <= bound_ms else 'NO'}",
        "frames sent": f"{sent}, {sent / seconds:.0f} a second",
        "frames looked at": f"{looked_at}, {looked_at / seconds:.1f} a second",
        "frames dropped": f"{dropped}",
        "answers to frames": dict(sorted(answers.items())),
        "from a frame to its answer": ", ".join(
            f"p50 {streamed.quantile_ms(0.5):.0f} ms, p99 {streamed.quantile_ms(0.99):.0f} ms" for streamed in seen
        ),
        "sessions begun": sum(streamed.sessions for streamed in seen),
        "connections lost": sum(streamed.lost for streamed in seen),
    }


def _line(load: Load) -> str:
    return (
        f"{load.rate:.1f} a second, p50 {load.quantile_ms(0.5):.1f} ms, p99 {load.quantile_ms(0.99):.1f} ms; "
        + ", ".join(f"{outcome}: {number}" for outcome, number in load.counts.items())
    )


def _counted(service: Service) -> dict[str, float]:
    text = httpx.get(f"{service.url}/metrics", headers=service.key).text
    found = re.findall(r'^facedex_stream_frames_total\{outcome="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {outcome: float(number) for outcome, number in found}
