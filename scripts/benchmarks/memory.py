"""What a worker takes for the largest pictures that are accepted: model and picture, by format."""

import importlib.util
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from app.vision.dlib_onnx import prepare_dlib_pack
from app.vision.install import PackFacts, install_pack
from scripts.benchmarks.parts import processes_table, worker_table
from scripts.benchmarks.report import Table, show
from scripts.benchmarks.running import temporary_service

_ROOT = Path(__file__).resolve().parents[2]
_SCRFD = _ROOT / ".." / "shared" / "models" / "scrfd500m_mobilefacenet"
_SIDE = 8000
_POLL_S = 0.002
# Top left corners of the faces in the picture that comes with insightface, and the side of a square around each.
_CORNERS = ((425, 273), (30, 247), (693, 323), (846, 43), (1085, 256), (231, 143))
_FACE = 175

# Loads the pack, then works off the files one after the other; says so after each, and waits to be told to go on.
_WORKER = """
import sys
from pathlib import Path
from app.vision.engine import load_engine
from app.vision.packs import PackStore
engine = load_engine(PackStore(Path(sys.argv[1])).get(sys.argv[2]))
print(0, flush=True)
for path in map(str.strip, sys.stdin):
    print(len(engine.analyze(Path(path).read_bytes(), max_pixels=64_000_000).faces), flush=True)
"""


@click.command()
@click.option(
    "--requests", type=click.IntRange(min=8), default=500, show_default=True, help="Before processes are looked at."
)
@click.option(
    "--limits",
    is_flag=True,
    help="Only what EMBEDDER_MEMORY_MB has to allow: the largest pictures, by format and pack.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def memory(requests: int, limits: bool, as_json: bool) -> None:
    """The processes of a service, and a worker by part; or, with --limits, the most that a worker takes."""
    if limits:
        _show_limits(as_json=as_json)
        return
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder, temporary_service() as service:
        processes, facts = processes_table(service, requests=requests)
        worker, more = worker_table(service.storage / "models", Path(folder))
    show("Memory by part", [], facts | more, as_json=as_json, tables=[processes, worker])


def _show_limits(*, as_json: bool) -> None:
    """Pictures of 64 megapixels full of faces, in each format, by model pack."""
    with tempfile.TemporaryDirectory() as folder:
        packs = _packs(Path(folder) / "models")
        files = _write_pictures(Path(folder))
        rows = [row for pack in packs for row in _measure(Path(folder) / "models", pack, files)]
    names = {
        "pack": "pack",
        "picture": "picture",
        "faces": "faces",
        "data_mib": "at most MiB",
        "rss_after_mib": "resident after MiB",
    }
    table = Table("The largest pictures", tuple(names.values()), [tuple(row[name] for name in names) for row in rows])
    show("What EMBEDDER_MEMORY_MB has to allow", [], {}, as_json=as_json, tables=[table])


def _packs(models: Path) -> list[str]:
    """The default pack and, where it is there, that of `../shared`."""
    names = [prepare_dlib_pack(models).manifest.name]
    if _SCRFD.is_dir():
        facts = PackFacts(licence="for this measurement", threshold=0.6)
        install_pack(models, _SCRFD.name, source=_SCRFD, accept_license=True, facts=facts)
        names.append(_SCRFD.name)
    return names


def _write_pictures(folder: Path) -> dict[str, Path]:
    crowd = _crowd()
    few_colours = crowd.quantize(16)  # so that lossless files are no longer than an upload may be
    plain = few_colours.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    quick = {"compress_level": 1}
    makers: dict[str, Callable[[], tuple[Image.Image, str, dict[str, object]]]] = {
        "JPEG": lambda: (crowd, "JPEG", {}),
        "JPEG, turned": lambda: (crowd.transpose(Image.Transpose.ROTATE_90), "JPEG", {"exif": exif.tobytes()}),
        "JPEG, progressive": lambda: (crowd, "JPEG", {"progressive": True, "subsampling": 0}),
        "JPEG, CMYK": lambda: (crowd.convert("CMYK"), "JPEG", {}),
        "PNG": lambda: (plain, "PNG", quick),
        "PNG with alpha": lambda: (_with_alpha(plain), "PNG", quick),
        "PNG, 16 bits grey": lambda: (_sixteen_bits(plain), "PNG", quick),
        "PNG, palette": lambda: (few_colours, "PNG", quick),
        "WebP": lambda: (crowd, "WEBP", {"method": 0}),
        "WebP with alpha": lambda: (_with_alpha(crowd), "WEBP", {"method": 0}),
        "BMP, 16 colours": lambda: (few_colours, "BMP", {}),
    }
    files = {}
    for number, (name, make) in enumerate(makers.items()):
        image, file_format, options = make()
        files[name] = folder / str(number)
        image.save(files[name], file_format, **options)
    return files


def _crowd() -> Image.Image:
    """256 faces: the six of the picture that comes with insightface, cut out and repeated."""
    spec = importlib.util.find_spec("insightface")
    if spec is None or spec.origin is None:
        raise click.ClickException("The package insightface, which has the picture, is not installed.")
    photo = Image.open(Path(spec.origin).parent / "data" / "images" / "t1.jpg").convert("RGB")
    faces = [photo.crop((x, y, x + _FACE, y + _FACE)).resize((_SIDE // 16, _SIDE // 16)) for x, y in _CORNERS]
    crowd = Image.new("RGB", (_SIDE, _SIDE))
    for n in range(256):
        crowd.paste(faces[n % len(faces)], (n % 16 * (_SIDE // 16), n // 16 * (_SIDE // 16)))
    return crowd


def _with_alpha(image: Image.Image) -> Image.Image:
    alpha = np.tile(np.linspace(128, 255, image.width, dtype=np.uint8), (image.height, 1))
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def _sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _measure(models: Path, pack: str, files: dict[str, Path]) -> list[dict[str, object]]:
    argv = [sys.executable, "-c", _WORKER, str(models), pack]
    rows: list[dict[str, object]] = []
    with subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        rows.append(_row(worker.pid, pack, "none", 0, _kib(worker.pid, "VmData")))
        for name, file in files.items():
            worker.stdin.write(f"{file}\n")
            worker.stdin.flush()
            most = _watch(worker)
            rows.append(_row(worker.pid, pack, name, int(worker.stdout.readline()), most))
        worker.stdin.close()
    return rows


def _watch(worker: subprocess.Popen[str]) -> int:
    """The most data that it has until it has something to say, in KiB."""
    most = 0
    while not select.select([worker.stdout], [], [], _POLL_S)[0]:
        most = max(most, _kib(worker.pid, "VmData"))
    return most


def _row(pid: int, pack: str, picture: str, faces: int, data_kib: int) -> dict[str, object]:
    rss_mib = _kib(pid, "VmRSS") >> 10
    return {"pack": pack, "picture": picture, "faces": faces, "data_mib": data_kib >> 10, "rss_after_mib": rss_mib}


def _kib(pid: int, name: str) -> int:
    """A line of /proc/<pid>/status, proc(5). VmData is what RLIMIT_DATA bounds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
