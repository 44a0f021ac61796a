"""Adding and removing a person in a gallery that is there, beside rewriting the pickle that holds it."""

import pickle
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import click
import httpx

from scripts.benchmarks.engines import MAX_PIXELS, open_engine
from scripts.benchmarks.load import OneClient, upload
from scripts.benchmarks.made_up import one_each
from scripts.benchmarks.people import DIMENSION, DOMAIN, fill, split_photos
from scripts.benchmarks.report import show, time_interleaved, verdict
from scripts.benchmarks.running import Service, temporary_service

_EMPTY = "empty"
_TURN = 5


@click.command()
@click.option("--templates", type=click.IntRange(min=1), default=23_640, show_default=True, help="In the gallery.")
@click.option("--runs", type=click.IntRange(min=2), default=60, show_default=True, help="Persons added, each way.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def enrol(templates: int, runs: int, as_json: bool) -> None:
    """Add a person by a photo, to an empty domain and to a large one, and remove one; the alternative rewrites a pickle."""
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder, temporary_service() as service:
        fill(service, DOMAIN, [], templates)
        service.create_domain(_EMPTY)
        timings = time_interleaved(_ways(service, Path(folder), templates), runs, turn=_TURN)
    rewriting, small, large, removing, engine = timings
    facts = {
        "adding, rewriting a pickle over /v1/…/faces, p50": round(rewriting.median_ms / large.median_ms, 1),
        "adding to the large domain over the empty one, p50": verdict(large.median_ms / small.median_ms, 1.5),
        "what is added to the engine's time, ms at p50": round(large.median_ms - engine.median_ms, 2),
        "removing, ms at p50": round(removing.median_ms, 2),
        "gallery": f"{templates} templates of {DIMENSION} dimensions, one a person",
    }
    show("A person more, a person less", timings, facts, as_json=as_json)


def _ways(service: Service, folder: Path, templates: int) -> dict[str, Callable[[int], object]]:
    enrolled, probes = split_photos()
    photos = [path.read_bytes() for path in (*enrolled, *probes)]
    http, key = OneClient(service.port), service.key
    client = httpx.Client(base_url=service.url, headers=key, timeout=60)
    engine = open_engine(service.storage / "models")
    dataset = _pickle(folder, templates)
    numbers = count()
    added: list[str] = []

    def add(domain: str) -> Callable[[int], object]:
        def way(run: int) -> object:
            name = f"new {next(numbers)}"
            if domain == DOMAIN:
                added.append(name)
            path = f"/v1/domains/{domain}/persons/{name.replace(' ', '%20')}/faces"
            return http.ask(upload(path, {}, [("file", photos[run % len(photos)])], key))

        return way

    def remove(_run: int) -> object:
        return client.delete(f"/v1/domains/{DOMAIN}/persons/{added.pop()}").raise_for_status()

    def rewrite(run: int) -> object:
        """As DeepFace's `find` does when its folder has a picture more: read all, add one, write all."""
        [face] = engine.analyze(photos[run % len(photos)], max_pixels=MAX_PIXELS, embed="largest").faces[:1]
        rows = pickle.loads(dataset.read_bytes())  # noqa: S301 - our own
        rows.append(_row(f"new {next(numbers)}", [] if face.embedding is None else face.embedding.tolist()))
        return dataset.write_bytes(pickle.dumps(rows))

    return {
        "a pickle rewritten": rewrite,
        "added to an empty domain": add(_EMPTY),
        f"added to one of {templates}": add(DOMAIN),
        "removed from that": remove,
        "engine": lambda run: engine.analyze(photos[run % len(photos)], max_pixels=MAX_PIXELS),
    }


def _pickle(folder: Path, templates: int) -> Path:
    made = one_each(templates, dimension=DIMENSION)
    path = folder / "ds_model_dlib.pkl"
    vectors = (made.templates(start, min(start + 25_000, templates)) for start in range(0, templates, 25_000))
    path.write_bytes(pickle.dumps([_row(f"{n}.jpg", vector.tolist()) for n, vector in enumerate(
        vector for chunk in vectors for vector in chunk
    )]))  # fmt: skip
    return path


def _row(identity: str, embedding: list[float]) -> dict[str, object]:
    box = {"target_x": 0, "target_y": 0, "target_w": 100, "target_h": 100}
    return {"identity": identity, "hash": "", "embedding": embedding} | box
