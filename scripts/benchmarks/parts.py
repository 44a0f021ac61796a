"""What the memory of a running service's processes, and of one worker, is made of."""

import json
import os
import subprocess
import sys
from pathlib import Path

from app.config import PROJECT_ROOT
from scripts.benchmarks.load import closed_loop, upload
from scripts.benchmarks.people import DOMAIN, fill, split_photos
from scripts.benchmarks.pictures import large_photo
from scripts.benchmarks.processes import members
from scripts.benchmarks.report import Table, verdict
from scripts.benchmarks.running import Service

_MB = 1e6
_WEB_AIM_MB = 120.0
_CLIENTS = 8
# Each step is taken in one process, in this order; what it has of its own is read after each. Mapped files, as those of
# the libraries, are shared by all workers and count by `Pss`, of one process here.
_STEPS = """
import gc, json, sys
from pathlib import Path

def memory():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return {"rss": sizes["Rss"], "anonymous": sizes["Anonymous"]}

found = [("interpreter", memory())]
import numpy
found.append(("numpy", memory()))
import app.vision.runtime
found.append(("onnxruntime and OpenCV", memory()))
import dlib
import app.embedder.worker
from app.vision.engine import load_engine
from app.vision.packs import PackStore
found.append(("dlib and the worker's own code", memory()))
engine = load_engine(PackStore(Path(sys.argv[1])).active(None))
gc.collect()
found.append(("the model, loaded and run once", memory()))
small, large = (Path(path).read_bytes() for path in sys.argv[2:4])
for _ in range(50):
    engine.analyze(small, max_pixels=64_000_000)
found.append(("working set of pictures of 250 pixels", memory()))
for _ in range(3):
    engine.analyze(large, max_pixels=64_000_000)
found.append(("working set of a photo of 12 megapixels", memory()))
print(json.dumps(found))
"""
_ARENA = """
import app.vision.runtime as runtime
plain = runtime.session_options
def with_arena():
    options = plain()
    options.enable_cpu_mem_arena = True
    return options
runtime.session_options = with_arena
"""


def processes_table(service: Service, *, requests: int) -> tuple[Table, dict[str, object]]:
    """The processes of a service at rest, and after many requests."""
    enrolled, probes = split_photos()
    fill(service, DOMAIN, enrolled, 0)
    rest = _by_role(service)
    uploads = [upload("/recognize", {"domain": DOMAIN}, [("file", path.read_bytes())], service.key) for path in probes]
    closed_loop(service.port, uploads, _CLIENTS, count=requests)
    busy = _by_role(service)
    rows: list[tuple[object, ...]] = [
        (
            role,
            len(sizes),
            max(size for size, _ in rest.get(role, [(0.0, 0.0)])),
            max(rss for rss, _ in sizes),
            sum(pss for _, pss in sizes),
        )
        for role, sizes in busy.items()
    ]
    web, share = max(rss for rss, _ in busy["web"]), max(pss for _, pss in busy["web"])
    columns = ("process", "how many", "at rest, RSS MB", f"after {requests} requests, RSS MB", "all of them, PSS MB")
    return Table("Processes; resident memory is the largest's", columns, rows), {
        "a web process after that, resident, MB": verdict(web, _WEB_AIM_MB),
        "and its share, where pages of several processes count in part, MB": verdict(share, _WEB_AIM_MB),
    }


def _by_role(service: Service) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for member in members(service.pid):
        found.setdefault(member.role, []).append((member.rss_bytes / _MB, member.pss_bytes / _MB))
    return found


def worker_table(models: Path, folder: Path) -> tuple[Table, dict[str, object]]:
    """One worker's memory by part, as it comes to it; and what onnxruntime's arena, which is off, would take."""
    enrolled, _ = split_photos()
    large = folder / "large.jpg"
    large.write_bytes(large_photo(enrolled[0]))
    arguments = [str(models), str(enrolled[0]), str(large)]
    parts, arena = _run(_STEPS, arguments), _run(_ARENA + _STEPS, arguments)
    rows: list[tuple[object, ...]] = []
    before = {"rss": 0.0, "anonymous": 0.0}
    for name, sizes in parts:
        rows.append(
            (
                name,
                (sizes["rss"] - before["rss"]) / _MB,
                (sizes["anonymous"] - before["anonymous"]) / _MB,
                sizes["rss"] / _MB,
            )
        )
        before = sizes
    columns = ("part", "resident MB", "of it its own (anonymous)", "so far")
    end, end_arena = parts[-1][1]["rss"] / _MB, arena[-1][1]["rss"] / _MB
    return Table("A worker by part", columns, rows), {
        "with onnxruntime's arena, which is off, at the end": f"{end_arena:.0f} MB instead of {end:.0f}"
    }


def _run(program: str, arguments: list[str]) -> list[tuple[str, dict[str, float]]]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    argv = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(argv, cwd=PROJECT_ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return [(name, sizes) for name, sizes in json.loads(done.stdout)]
