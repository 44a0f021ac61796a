"""Memory of web and workers over many requests of all kinds."""

import json
from collections.abc import Sequence

import click
import httpx
import numpy as np

from scripts.benchmarks.load import closed_loop, upload
from scripts.benchmarks.pictures import group_photo, photos, portrait
from scripts.benchmarks.processes import members
from scripts.benchmarks.report import cores, machine
from scripts.benchmarks.running import Service, temporary_service

_DOMAIN = "people"
_ROLES = ("web", "pool", "worker")
_AIM_PERCENT = 5.0
_MIB = 1024 * 1024
# A worker keeps more or less free memory, by the picture that it had last: 16 MB of 190. A mean of few samples is chance.
_SAMPLES = 20
_ROWS_SHOWN = 40

# Resident memory in bytes, by the name of the process.
Sample = dict[str, int]


@click.command()
@click.option("--requests", type=click.IntRange(min=20), default=10_000, show_default=True)
@click.option(
    "--settled", type=click.IntRange(min=10), default=1_000, show_default=True, help="Drift counts after so many."
)
@click.option("--clients", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def soak(requests: int, settled: int, clients: int, as_json: bool) -> None:
    """Sample each process's memory while clients send pictures, good ones and bad ones; workers are never recycled."""
    if requests < 3 * settled:
        raise click.ClickException("--requests must be at least three times --settled.")
    samples: list[tuple[int, Sample]] = []
    counts: dict[str, int] = {}
    with temporary_service({"EMBEDDER_MAX_REQUESTS": "0", "EMBEDDER_RECYCLE_MB": "0"}) as service:
        asked = _requests(service)
        step, done = max(1, settled // _SAMPLES), 0
        while done < requests:
            load = closed_loop(service.port, asked, clients, count=step, first=done)
            done += len(load.answers)
            for outcome, number in load.counts.items():
                counts[outcome] = counts.get(outcome, 0) + number
            samples.append((done, _sample(service)))
    _show(samples, counts, settled, as_json=as_json)


def _requests(service: Service) -> Sequence[bytes]:
    """A cycle over the endpoints that take pictures, with large, damaged and other files every now and then."""
    service.create_domain(_DOMAIN)
    portrait_png, large = portrait().read_bytes(), group_photo().read_bytes()
    with httpx.Client(base_url=service.url, headers=service.key) as http:
        enrolled = http.post(f"/v1/domains/{_DOMAIN}/persons/Eileen/faces", files={"file": portrait_png})
        enrolled.raise_for_status()
    key, domain = service.key, {"domain": _DOMAIN}
    odd = [large, portrait_png, large[: len(large) // 2], b"no picture at all"]
    asked = []
    for number, path in enumerate(photos()):
        photo = [("file", path.read_bytes())]
        asked += [upload("/recognize", domain, photo, key), upload("/v1/embeddings", {}, photo, key)]
        match number % 10:
            case 0:
                asked.append(upload("/recognize", domain, [("file", odd[number // 10 % len(odd)])], key))
            case 3:
                asked.append(upload("/v1/verify", {}, [("file1", portrait_png), ("file2", photo[0][1])], key))
            case 6:
                asked.append(upload("/v1/embeddings/batch", {}, photo * 3, key))
            case 9:
                asked.append(upload("/v1/detect", {}, photo, key))
    return asked


def _sample(service: Service) -> Sample:
    found = [member for member in members(service.pid) if member.role in _ROLES]
    return {f"{member.role} {member.process.pid}": member.rss_bytes for member in found}


def _show(samples: list[tuple[int, Sample]], counts: dict[str, int], settled: int, *, as_json: bool) -> None:
    """Single samples differ by the picture that was in hand last: means over `settled` requests each are compared."""
    names = list(samples[0][1])
    if any(list(sample) != names for _, sample in samples):
        raise click.ClickException("A process was replaced in the meantime: its memory cannot be compared.")
    first = [sample for done, sample in samples if settled < done <= 2 * settled]
    last = [sample for done, sample in samples if done > samples[-1][0] - settled]
    drift = {name: (_mean(last, name) / _mean(first, name) - 1) * 100 for name in names}
    worst = max(drift.values())
    verdict = {
        f"largest drift, the last {settled} requests over the second {settled}, less than {_AIM_PERCENT:g} %": (
            f"{worst:.2f} %: {'yes' if worst < _AIM_PERCENT else 'NO'}"
        ),
        "answers": counts,
    }
    if as_json:
        rows = [{"requests": done} | sample for done, sample in samples]
        click.echo(json.dumps({"machine": machine(), "samples": rows, "drift_percent": drift} | verdict, indent=2))
        return
    click.echo(f"Resident memory, MB; {cores()} cores\n")
    click.echo(f"{'after':>8}" + "".join(f"{name:>16}" for name in names))
    for done, sample in samples[:: max(1, len(samples) // _ROWS_SHOWN)]:
        click.echo(f"{done:>8}" + "".join(f"{sample[name] / _MIB:>16.1f}" for name in names))
    click.echo(f"{'drift':>8}" + "".join(f"{drift[name]:>14.2f} %" for name in names))
    click.echo("\n" + "\n".join(f"{key}: {value}" for key, value in verdict.items()))


def _mean(samples: list[Sample], name: str) -> float:
    return float(np.mean([sample[name] for sample in samples]))
