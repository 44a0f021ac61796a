"""Other projects that recognise faces, on the same photos with the same dlib weights."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import click
import httpx
import numpy as np
import psutil
from pgvector import Vector
from sqlalchemy import text

from app.datasets.deepface_export import write_deepface
from app.datasets.names import deepface_file_name
from app.datasets.rows import DatasetRow
from app.db.base import Embedding
from app.db.domains import load_gallery
from app.db.partitions import partition_name
from app.db.session import database_url
from app.vision.faces import Box, Float32Array
from scripts.benchmarks.databases import temporary_server
from scripts.benchmarks.load import closed_loop, upload
from scripts.benchmarks.peer_environments import FOLDER, PEERS, Environment, environment, put_weights
from scripts.benchmarks.people import DOMAIN, fill, split_photos
from scripts.benchmarks.processes import members
from scripts.benchmarks.report import Table, Timing, cores, show, summary, verdict
from scripts.benchmarks.running import Service, temporary_service

_FIND_AIM, _API_AIM, _RATE_AIM, _MEMORY_AIM = 30.0, 8.0, 10.0, 0.2
_CLIENTS_PER_WORKER = 4
# The index, which it uses only where it is asked to; an empty text is false.
_API_FIELDS = {
    "model_name": "Dlib",
    "detector_backend": "dlib",
    "enforce_detection": "",
    "l2_normalize": "1",
    "search_method": "ann",
    "k": "5",
}
_FILL = """
INSERT INTO {table} (img_name, face, face_shape, model_name, detector_backend, aligned, l2_normalized, embedding,
    face_hash, embedding_hash)
SELECT CAST(:start + n AS text) || '.jpg', '', '{{1}}', 'Dlib', 'dlib', true, true, v,
    CAST(:start + n AS text), CAST(:start + n AS text)
FROM unnest(CAST(:vectors AS vector[])) WITH ORDINALITY AS t (v, n)
"""
_READY_WITHIN_S = 180.0


@click.command()
@click.option("--install", is_flag=True, help="Install what is missing from PyPI: 3 GB, some minutes. It says what.")
@click.option(
    "--environments",
    type=click.Path(path_type=Path),
    default=FOLDER,
    help="Where they are, one folder each; default .peers.",
)
@click.option("--peer", type=click.Choice(tuple(PEERS)), multiple=True, default=tuple(PEERS), show_default=True)
@click.option("--templates", type=click.IntRange(min=100), default=23_640, show_default=True, help="In each gallery.")
@click.option(
    "--runs", type=click.IntRange(min=2), default=40, show_default=True, help="Pictures each way, one by one."
)
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=10, show_default=True, help="With all cores busy, each."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def peers(
    install: bool, environments: Path, peer: tuple[str, ...], templates: int, runs: int, seconds: float, as_json: bool
) -> None:
    """Facedex beside DeepFace's find, DeepFace's API over pgvector, and face_recognition."""
    found = {name: Environment(PEERS[name], environments.absolute()) for name in peer}
    for environment_ in found.values():
        if install:
            environment_.install()
        environment_.require()
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder:
        Path(folder).chmod(0o711)
        asked = _Asked(Path(folder), split_photos()[1], templates, runs, seconds)
        put_weights(asked.home)
        own, gallery = _facedex(asked)
        results = [own]
        if "deepface" in found:
            results.append(_deepface_find(found["deepface"], asked, gallery))
            results.append(_deepface_api(found["deepface"], asked, gallery))
        if "face_recognition" in found:
            results.append(_face_recognition(found["face_recognition"], asked, gallery))
    columns = ("", "a second, all cores busy", "memory of a worker, MB", "p50 over Facedex", "memory over Facedex")
    rows: list[tuple[object, ...]] = [
        (
            one.timing.name,
            one.rate,
            one.worker_mb,
            one.timing.median_ms / own.timing.median_ms,
            one.worker_mb / own.worker_mb,
        )
        for one in results
    ]
    facts = _verdicts(own, {one.timing.name: one for one in results}) | {
        "gallery": f"{len(gallery)} templates, the same in each: of the people on the photos, the rest made up"
    }
    show(
        "The same photos, the same weights",
        [one.timing for one in results],
        facts,
        as_json=as_json,
        tables=[Table("Load and memory", columns, rows)],
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    folder: Path
    pictures: list[Path]
    templates: int
    runs: int
    seconds: float

    @property
    def home(self) -> Path:
        return self.folder / "home"


@dataclass(frozen=True, slots=True)
class _Result:
    timing: Timing
    rate: float
    worker_mb: float


_FACEDEX, _FIND, _API, _LOOP = "Facedex, /recognize", "DeepFace.find", "DeepFace's API, pgvector", "face_recognition"


def _facedex(asked: _Asked) -> tuple[_Result, Float32Array]:
    """What it does, and its gallery, for the others."""
    enrolled = split_photos()[0]
    with temporary_service() as service:
        fill(service, DOMAIN, enrolled, asked.templates - len(enrolled))
        gallery = _stored(service)
        uploads = [
            upload("/recognize", {"domain": DOMAIN}, [("file", path.read_bytes())], service.key)
            for path in asked.pictures
        ]
        closed_loop(service.port, uploads, cores(), count=40)
        alone = closed_loop(service.port, uploads, 1, count=asked.runs)
        busy = closed_loop(service.port, uploads, cores() * _CLIENTS_PER_WORKER, seconds=asked.seconds)
        worker = max(member.rss_bytes for member in members(service.pid) if member.role == "worker")
    timing = summary(_FACEDEX, [answer.elapsed_ms for answer in alone.succeeded])
    return _Result(timing, busy.rate, worker / 1e6), gallery


def _stored(service: Service) -> Float32Array:
    """All templates of the domain: float32, (N, D)."""
    with service.database() as database, database.bulk_transaction() as session:
        table = partition_name(load_gallery(session, DOMAIN).domain_id)
        query = text(f"SELECT embedding FROM {table} ORDER BY id").columns(embedding=Embedding())
        return np.stack(session.scalars(query).all())


def _deepface_find(installed: Environment, asked: _Asked, gallery: Float32Array) -> _Result:
    dataset = asked.folder / "dataset"
    dataset.mkdir()
    box = Box(10, 20, 90, 110)
    rows = (
        DatasetRow(f"{dataset}/{n}/{n}.jpg", str(n), vector, box, "Dlib", "dlib") for n, vector in enumerate(gallery)
    )
    write_deepface(dataset / deepface_file_name("Dlib", "dlib", form="npz"), rows, form="npz")
    order = {"pictures": list(map(str, asked.pictures)), "folder": str(dataset), "runs": asked.runs}
    told = installed.run("deepface_find", order, asked.home)
    timing = summary(_FIND, told["times_ms"])
    # It has no server: as many processes as there are cores would do this at best.
    return _Result(timing, cores() * 1e3 / timing.median_ms, told["rss_bytes"] / 1e6)


def _deepface_api(installed: Environment, asked: _Asked, gallery: Float32Array) -> _Result:
    with temporary_server() as server:
        url = database_url(server.settings).set(drivername="postgresql").render_as_string(hide_password=False)
        table = installed.run("deepface_table", {"url": url}, asked.home)["table"]
        with server.database.maintenance() as connection:
            for start in range(0, len(gallery), 1_000):
                vectors = [Vector(vector) for vector in gallery[start : start + 1_000]]
                connection.execute(text(_FILL.format(table=table)), {"start": start, "vectors": vectors})
            connection.execute(text(f"VACUUM ANALYZE {table}"))
        with _api(installed, url, asked) as (port, pid):
            uploads = [upload("/search", _API_FIELDS, [("img", path.read_bytes())], {}) for path in asked.pictures]
            warm = closed_loop(port, uploads, cores() * 2, count=4 * cores())
            if set(warm.counts) != {"200"}:
                raise click.ClickException(f"DeepFace's API answers {warm.counts}.")
            alone = closed_loop(port, uploads, 1, count=asked.runs)
            busy = closed_loop(port, uploads, cores() * _CLIENTS_PER_WORKER, seconds=asked.seconds)
            workers = psutil.Process(pid).children(recursive=True)
            memory = max(worker.memory_info().rss for worker in workers)
    return _Result(summary(_API, [answer.elapsed_ms for answer in alone.succeeded]), busy.rate, memory / 1e6)


@contextmanager
def _api(installed: Environment, url: str, asked: _Asked) -> Iterator[tuple[int, int]]:
    """DeepFace's own application by Gunicorn, as its `service.sh` starts it, with a worker per core."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [
        str(installed.python),
        "-m",
        "gunicorn",
        f"--workers={cores()}",
        "--timeout=3600",
        f"--bind=127.0.0.1:{port}",
        "deepface.api.src.app:create_app()",
    ]
    env = environment(asked.home) | {
        "DEEPFACE_DATABASE_TYPE": "pgvector",
        "DEEPFACE_POSTGRES_URI": url,
        "DEEPFACE_CONNECTION_DETAILS": url,
    }
    log = asked.folder / f"api-{uuid4().hex}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=env, cwd=asked.folder, stdout=out, stderr=out, start_new_session=True)
    try:
        until_s = time.monotonic() + _READY_WITHIN_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until_s:
                raise click.ClickException("DeepFace's API did not start.")
            time.sleep(0.2)
        yield port, process.pid
    except click.ClickException as error:
        raise click.ClickException(
            f"{error.message} Its log ends: {log.read_text(errors='replace')[-2000:]}"
        ) from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(port: int) -> bool:
    """Its first page says who it is, once a worker has everything loaded."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _face_recognition(installed: Environment, asked: _Asked, gallery: Float32Array) -> _Result:
    known = asked.folder / "known.npy"
    np.save(known, gallery)
    order = {"pictures": list(map(str, asked.pictures)), "known": str(known), "runs": asked.runs}
    told = installed.run("face_recognition_loop", order, asked.home)
    timing = summary(_LOOP, told["times_ms"])
    return _Result(timing, cores() * 1e3 / timing.median_ms, told["rss_bytes"] / 1e6)


def _verdicts(own: _Result, results: dict[str, _Result]) -> dict[str, object]:
    facts: dict[str, object] = {}
    for name, faster in ((_FIND, _FIND_AIM), (_API, _API_AIM)):
        if name in results:
            peer = results[name]
            facts[f"faster than {name}, p50"] = verdict(
                peer.timing.median_ms / own.timing.median_ms, faster, at_most=False
            )
            facts[f"more requests a second than {name}"] = verdict(own.rate / peer.rate, _RATE_AIM, at_most=False)
            facts[f"memory of a worker over {name}"] = verdict(own.worker_mb / peer.worker_mb, _MEMORY_AIM)
    if _LOOP in results:
        facts[f"faster than {_LOOP}, p50"] = round(results[_LOOP].timing.median_ms / own.timing.median_ms, 2)
    return facts
