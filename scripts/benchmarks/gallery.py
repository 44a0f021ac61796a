"""The edge's gallery: refresh against full rebuild, search against a bare product, start from the local file, memory."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, time
from typing import Any

import click
import numpy as np
import structlog
from numpy.typing import NDArray

from scripts.benchmarks.report import Timing, show, summary, time_interleaved

_ROOT = Path(__file__).resolve().parents[2]
_CONTRACT = "made-up:{dimension}:0000000000000000"
_BATCH = 32
# What the other people in front of a camera have in common with the members: so much of each vector is the same in all.
_COMMON = 0.5
_NOISE = 0.6


@click.command()
@click.option("--members", type=click.IntRange(min=1_000), default=50_000, show_default=True)
@click.option("--dimension", type=click.IntRange(min=8), default=512, show_default=True)
@click.option("--runs", type=click.IntRange(min=2), default=200, show_default=True, help="Of what takes milliseconds.")
@click.option("--probes", type=click.IntRange(min=1), default=10_000, show_default=True, help="Compared one by one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a measurement instead of tables.")
def gallery(members: int, dimension: int, runs: int, probes: int, as_json: bool) -> None:
    """Refresh, search, start and memory of the edge's gallery. BLAS has one thread, as the ways it is compared with."""
    asked = _Asked(members, dimension, runs, probes)
    for part in ("refresh", "match", "first_place", "start", "memory"):
        for told in _in_a_process_of_its_own(part, asked):
            timings = [Timing(**timing) for timing in told["timings"]]
            if timings:
                show(told["title"], timings, told["facts"], as_json=as_json)
            elif as_json:
                click.echo(json.dumps({"title": told["title"]} | told["facts"], indent=2))
            else:
                click.echo("\n".join([told["title"], "", *(f"{key}: {value}" for key, value in told["facts"].items())]))
            click.echo()


@dataclass(frozen=True, slots=True)
class _Asked:
    members: int
    dimension: int
    runs: int
    probes: int


def _in_a_process_of_its_own(part: str, asked: _Asked) -> list[dict[str, Any]]:
    """The number of BLAS's threads is fixed when it is loaded, and the most memory that was used is a process's."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    argv = [sys.executable, "-m", "scripts.benchmarks.gallery", part, json.dumps(asdict(asked))]
    run = subprocess.run(argv, cwd=_ROOT, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise click.ClickException(f"The measurement of {part} ended with status {run.returncode}.")
    return json.loads(run.stdout)


def _told(title: str, timings: list[Timing], **facts: object) -> dict[str, Any]:
    return {"title": title, "timings": [asdict(timing) for timing in timings], "facts": facts}


class _People:
    """Members made up: one template each, with something in common, as faces have."""

    def __init__(self, asked: _Asked, *, spare: int = 0) -> None:
        from app.edge.members import Member, MemberTemplates

        self.asked = asked
        self.contract = _CONTRACT.format(dimension=asked.dimension)
        self._rng = np.random.default_rng(20)
        self._mean = self._rng.standard_normal(asked.dimension, dtype=np.float32) * _COMMON
        self.vectors = self.strangers(asked.members + spare)
        self.vectors.flags.writeable = False
        self.given = [
            MemberTemplates(Member(f"R{number // 5}-{number % 5}", "x"), self.vectors[number : number + 1])
            for number in range(asked.members)
        ]

    def strangers(self, count: int) -> NDArray[np.float32]:
        """Vectors of others."""
        return self._rng.standard_normal((count, self.asked.dimension), dtype=np.float32) + self._mean

    def probes(self, count: int) -> NDArray[np.float32]:
        """Half of them show a member, not quite as enrolled; half show somebody else."""
        members = self.vectors[self._rng.integers(0, self.asked.members, count - count // 2)]
        shown = members + _NOISE * self._rng.standard_normal(members.shape, dtype=np.float32)
        return np.concatenate([shown, self.strangers(count // 2)]).astype(np.float32)

    def gallery(self, **options: Any) -> Any:
        """Of all members."""
        from app.edge.gallery import Gallery

        built = Gallery(self.contract, self.asked.dimension, **options)
        built.update(self.given)
        return built


def _refresh(asked: _Asked) -> list[dict[str, Any]]:
    """+2, -1, 1 updated: by a delta, by the list of all, and by building everything anew."""
    from app.edge.members import GalleryDelta, Member, MemberTemplates

    slow = max(3, asked.runs // 40)
    total = 3 * (asked.runs + 2) + 3 * 2 * (slow + 2)
    people = _People(asked, spare=total)
    by_delta, by_list = people.gallery(), people.gallery()
    fresh = iter(range(asked.members, len(people.vectors)))

    def changed(run: int) -> list[Any]:
        def new(key: str) -> Any:
            number = next(fresh)
            return MemberTemplates(Member(key, "x"), people.vectors[number : number + 1])

        return [new(f"N{run}-1"), new(f"N{run}-2"), new("R0-0")]

    def delta(run: int) -> None:
        gone = f"R{1 + run // 5}-{run % 5}" if run < asked.members - 10 else "nobody"
        by_delta.apply(GalleryDelta(people.contract, "", False, tuple(changed(run)), (gone,)))

    # The list of a source that fetched everything anew: other objects, which have to be looked at.
    def everybody(run: int) -> list[Any]:
        first, second, other = changed(run)
        same = [MemberTemplates(one.member, one.embeddings) for one in people.given[2:]]
        return [first, second, other, *same]

    lists = iter([everybody(run) for run in range(slow + 1)])

    def whole_list(_run: int) -> None:
        by_list.update(next(lists))

    vectors = list(people.vectors[: asked.members])
    numbers = [vector.tolist() for vector in vectors]

    def rebuild_of_vectors(_run: int) -> object:
        matrix = np.array(vectors)
        return matrix, np.linalg.norm(matrix, axis=1)

    def rebuild_of_numbers(_run: int) -> object:
        matrix = np.array(numbers, dtype=np.float32)
        return matrix, np.linalg.norm(matrix, axis=1)

    old = time_interleaved(
        {"rebuild, lists of numbers": rebuild_of_numbers, "rebuild, vectors": rebuild_of_vectors}, slow
    )
    build = time_interleaved({"Gallery, first build": lambda _run: people.gallery()}, slow)
    lists_ms = time_interleaved({"Gallery.update, all anew": whole_list}, slow)
    deltas = time_interleaved({"Gallery.apply, the delta": delta}, asked.runs)
    facts = {
        "change": "+2 added, -1 removed, 1 updated",
        "rebuild of numbers to delta": f"{old[0].median_ms / deltas[0].median_ms:.0f}x (aim 200)",
        "rebuild of vectors to delta": f"{old[1].median_ms / deltas[0].median_ms:.0f}x",
    }
    title = f"Refresh of {asked.members} members x {asked.dimension}"
    return [_told(title, [*old, *build, *lists_ms, *deltas], **facts)]


def _match(asked: _Asked) -> list[dict[str, Any]]:
    """One probe, and a batch, against the product alone."""
    people = _People(asked)
    ways = {
        "codes": people.gallery().snapshot,
        "exact": people.gallery(codes=False).snapshot,
        "float16, codes": people.gallery(stored="float16").snapshot,
        "float16, exact": people.gallery(stored="float16", codes=False).snapshot,
    }
    matrix = ways["exact"].columns.matrix
    probes = people.probes(asked.runs * 2)
    units = probes / np.linalg.norm(probes, axis=1, keepdims=True)
    np.random.default_rng(1).shuffle(units)

    def one(snapshot: Any) -> Callable[[int], object]:
        return lambda run: snapshot.match(units[run], now=0.0, top_k=5)

    singles = time_interleaved(
        {"bare product": lambda run: matrix @ units[run]} | {name: one(way) for name, way in ways.items()}, asked.runs
    )

    def batch(run: int) -> NDArray[np.float32]:
        start = run * 7 % max(1, len(units) - _BATCH)
        return units[start : start + _BATCH]

    def many(snapshot: Any) -> Callable[[int], object]:
        return lambda run: snapshot.match_batch(batch(run), now=0.0, top_k=5)

    batches = time_interleaved(
        {"bare product": lambda run: batch(run) @ matrix.T} | {name: many(way) for name, way in ways.items()},
        max(3, asked.runs // 10),
    )
    size = f"{asked.members} x {asked.dimension}"
    return [
        _told(f"Match of one probe with {size}", singles, aim="exact no slower than bare; codes twice as fast"),
        _told(f"Match of {min(_BATCH, len(units))} probes at once with {size}", batches),
    ]


def _first_place(asked: _Asked) -> list[dict[str, Any]]:
    """Whether codes name the same first as the exact product; ties of float32 are counted apart."""
    people = _People(asked)
    probes = people.probes(asked.probes)
    exact, coded, half = (
        people.gallery(**options).snapshot for options in ({"codes": False}, {}, {"stored": "float16"})
    )
    same = ties = other = half_same = 0
    for start in range(0, len(probes), 500):
        block = probes[start : start + 500]
        answers = (way.match_batch(block, now=0.0, top_k=1) for way in (exact, coded, half))
        for (left,), (right,), (rounded,) in zip(*answers, strict=True):
            half_same += left.member.key == rounded.member.key
            if left.member.key == right.member.key:
                same += 1
            elif abs(left.similarity - right.similarity) < 1e-6:
                ties += 1
            else:
                other += 1
    facts = {"probes": len(probes), "same": same, "equal within float32's rounding": ties, "other": other}
    return [_told("First place by codes and by the exact product", [], **facts, same_with_float16=half_same)]


def _start(asked: _Asked) -> list[dict[str, Any]]:
    """From the local file to the first answer, in a process that has the libraries."""
    from app.edge.clock import SystemClock
    from app.edge.errors import SourceUnavailable
    from app.edge.gallery import Gallery
    from app.edge.members import GalleryDelta
    from app.edge.sources.file import CacheFile
    from app.edge.sync import GallerySync

    class Away:
        """A server that does not answer: the file alone is measured."""

        name = "bench"

        def fetch(self, since: str | None) -> GalleryDelta:
            raise SourceUnavailable("There is no server beside the file.")

    people = _People(asked)
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder:
        kept = CacheFile(
            Path(folder) / "members",
            source="bench",
            contract=people.contract,
            dimension=asked.dimension,
            max_age_s=3_600.0,
        )
        begin = perf_counter()
        kept.save(people.gallery().snapshot, "1", time())
        saved_s = perf_counter() - begin
        times = []
        for _ in range(5):
            begin = perf_counter()
            gallery = Gallery(people.contract, asked.dimension)
            assert GallerySync(gallery, Away(), kept, 1.0, SystemClock()).load()
            (best, *_) = gallery.snapshot.match(people.vectors[0], now=0.0)
            times.append((perf_counter() - begin) * 1e3)
            assert best.member.key == "R0-0"
        size = kept.path.stat().st_size
    facts = {"aim": "under 1000 ms", "file": f"{size / 2**20:.0f} MiB", "saved in": f"{saved_s:.2f} s"}
    return [
        _told(f"Start from the cache file of {asked.members} members", [summary("load, apply, match", times)], **facts)
    ]


def _memory(asked: _Asked) -> list[dict[str, Any]]:
    """The most that a process needs, beside what it has with the libraries alone; members come in blocks, as from pages."""
    from app.edge.gallery import Gallery
    from app.edge.members import GalleryDelta, Member, MemberTemplates

    rng = np.random.default_rng(3)
    contract = _CONTRACT.format(dimension=asked.dimension)
    facts: dict[str, object] = {"libraries alone": _peak()}
    gallery = Gallery(contract, asked.dimension)

    def apply(keys: range, *, full: bool = False) -> None:
        vectors = rng.standard_normal((len(keys), asked.dimension), dtype=np.float32)
        given = (
            MemberTemplates(Member(f"R{number}-1", "x"), vectors[row : row + 1]) for row, number in enumerate(keys)
        )
        gallery.apply(GalleryDelta(contract, "", full, tuple(given)))

    apply(range(asked.members), full=True)
    facts["all members at once"] = _peak()
    for number in range(50):
        apply(range(number, number + 3))
    facts["after 50 small refreshes"] = _peak()
    apply(range(asked.members, asked.members + asked.members // 4))
    facts["after a quarter more, which moves everything"] = _peak()
    facts["one copy of the vectors"] = f"{asked.members * asked.dimension * 4 / 2**20:.0f} MiB"
    return [_told(f"Most memory used with {asked.members} members x {asked.dimension}", [], **facts)]


def _peak() -> str:
    """Not `ru_maxrss`, in which a process begins with that of the one that started it. proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return f"{kib >> 10} MiB"


_PARTS: dict[str, Callable[[_Asked], list[dict[str, Any]]]] = {
    "refresh": _refresh,
    "match": _match,
    "first_place": _first_place,
    "start": _start,
    "memory": _memory,
}


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(json.dumps(_PARTS[sys.argv[1]](_Asked(**json.loads(sys.argv[2])))))
