"""1:1: a picture against a person's stored templates, beside what has to embed a reference every time."""

from collections.abc import Callable

import click

from scripts.benchmarks.engines import MAX_PIXELS, open_engine
from scripts.benchmarks.load import OneClient, upload
from scripts.benchmarks.people import DOMAIN, fill, split_photos
from scripts.benchmarks.report import show, time_interleaved, verdict
from scripts.benchmarks.running import Service, temporary_service

_TURN = 10


@click.command()
@click.option("--templates", type=click.IntRange(min=0), default=23_640, show_default=True, help="In the gallery.")
@click.option("--runs", type=click.IntRange(min=2), default=200, show_default=True, help="Each way.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def verify(templates: int, runs: int, as_json: bool) -> None:
    """A person verified by their stored templates, by a reference picture that is sent along, and by a search of everybody."""
    enrolled, probes = split_photos()
    with temporary_service({"EMBEDDER_MAX_REQUESTS": "0"}) as service:
        fill(service, DOMAIN, enrolled, templates)
        timings = time_interleaved(_ways(service), runs, turn=_TURN)
    pair, stored, everybody, engine = timings
    facts = {
        "stored templates over a reference picture, p50": round(stored.median_ms / pair.median_ms, 3),
        "stored templates over /recognize, p50": round(stored.median_ms / everybody.median_ms, 3),
        "stored templates over the engine, p50": verdict(stored.median_ms / engine.median_ms, 1.2),
        "pictures": f"{len(probes)}, each with its own person",
        "gallery": f"{templates} templates made up, and {len(enrolled)} of photos",
    }
    show("Is this the person?", timings, facts, as_json=as_json)


def _ways(service: Service) -> dict[str, Callable[[int], object]]:
    enrolled, probes = split_photos()
    reference = {path.parent.name: path.read_bytes() for path in enrolled}
    pictures = [(path.parent.name, path.read_bytes()) for path in probes]
    key, http = service.key, OneClient(service.port)
    engine = open_engine(service.storage / "models")
    pairs = [upload("/v1/verify", {}, [("file1", reference[name]), ("file2", data)], key) for name, data in pictures]
    claims = [
        upload(f"/v1/domains/{DOMAIN}/persons/{name}/verify", {}, [("file", data)], key) for name, data in pictures
    ]
    searches = [upload("/recognize", {"domain": DOMAIN}, [("file", data)], key) for _, data in pictures]
    ways = {
        "/v1/verify, reference sent": pairs,
        "…/persons/NAME/verify": claims,
        "/recognize": searches,
    }
    asked: dict[str, Callable[[int], object]] = {
        name: lambda run, requests=requests: http.ask(requests[run % len(requests)]) for name, requests in ways.items()
    }
    return asked | {"engine": lambda run: engine.analyze(pictures[run % len(pictures)][1], max_pixels=MAX_PIXELS)}
