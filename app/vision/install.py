"""Installing packs: fetched, or from a folder or archive of the operator's; whole or not at all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from app.errors import InvalidPack, LicenseNotAccepted, UnknownModel
from app.vision.alignment import CHIP_SIZE_PX
from app.vision.archives import collect
from app.vision.catalog import (
    INSIGHTFACE_CALIBRATION,
    INSIGHTFACE_LICENCE,
    INSIGHTFACE_MIN_SHARPNESS,
    INSIGHTFACE_RELEASE_URL,
    KNOWN_PACKS,
)
from app.vision.download import Progress, fetch, public_address
from app.vision.engine import load_engine
from app.vision.packs import (
    DEFAULT_PACK,
    MANIFEST_NAME,
    Calibration,
    InstalledPack,
    Licence,
    PackFile,
    PackManifest,
    file_sha256,
    is_pack_name,
    read_manifest,
)
from app.vision.prelu import write_quicker
from app.vision.staging import publish, staging

# SCRFD with landmarks: scores, boxes and points at three or five strides.
_DETECTOR_OUTPUTS = (9, 15)


@dataclass(frozen=True, slots=True)
class PackFacts:
    """What the operator says about a pack that brings no manifest.

    Attributes:
        licence: its terms in a line.
        non_commercial: whether they exclude commercial use.
        threshold: cosine distance up to which two faces are one person's.
    """

    licence: str | None = None
    non_commercial: bool = True
    threshold: float | None = None


def install_pack(
    models_dir: Path,
    name: str,
    *,
    source: str | Path | None = None,
    accept_license: bool = False,
    facts: PackFacts | None = None,
    release_url: str = INSIGHTFACE_RELEASE_URL,
    progress: Progress | None = None,
) -> InstalledPack:
    """Install a pack under `models_dir`, in the place of one of the same name.

    Args:
        source: a folder, a zip archive, or an archive's https address; None fetches a known pack, or prepares `dlib`.
        accept_license: that the operator accepts the pack's terms.
        facts: for a pack without manifest; known packs need none.
        release_url: where known packs are fetched from; ends with a slash.
        progress: called while a download goes on.

    Raises:
        UnknownModel: no source was given, and the name is not a known pack's.
        LicenseNotAccepted: the terms, which the message holds, have to be accepted first. Known packs are not fetched then.
        DownloadFailed: the archive could not be fetched, or is not the known one.
        InvalidPack: the name or the files are not those of a pack.
    """
    if not is_pack_name(name):
        raise InvalidPack(
            "A pack's name is up to 64 small letters, digits, '_', '.' and '-', the first a letter or digit"
        )
    if name == DEFAULT_PACK:
        return _prepare_default(models_dir, source)
    if name in KNOWN_PACKS:
        _require_acceptance(name, INSIGHTFACE_LICENCE, accept_license)
    elif source is None:
        known = ", ".join([DEFAULT_PACK, *KNOWN_PACKS])
        raise UnknownModel(
            f"No pack named {name!r} can be fetched; known are {known}. Others need a folder or an archive"
        )
    with staging(models_dir, name) as folder:
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        origin = _collect_files(name, source, folder, unpacked, release_url, progress)
        manifest = _manifest(name, unpacked, origin, facts)
        _require_acceptance(name, manifest.licence, accept_license)
        for file in manifest.files.values():
            _take(unpacked / file.name, folder / file.name)
        shutil.rmtree(unpacked)
        # A pack that cannot be loaded shall not take the place of one that can.
        load_engine(InstalledPack(folder, manifest))
        if manifest.kind == "insightface":
            manifest = _quickened(folder, manifest)
        return publish(folder, models_dir, manifest)


def _prepare_default(models_dir: Path, source: str | Path | None) -> InstalledPack:
    if source is not None:
        raise InvalidPack(f"The pack {DEFAULT_PACK} is made from the installed packages; it takes no source")
    from app.vision.dlib_onnx import prepare_dlib_pack

    return prepare_dlib_pack(models_dir)


def _require_acceptance(name: str, licence: Licence, accepted: bool) -> None:
    if licence.must_accept and not accepted:
        use = "no commercial use" if licence.non_commercial else "commercial use as the terms allow"
        raise LicenseNotAccepted(f"The licence of {name} has to be accepted first: {licence.name} ({use})")


def _collect_files(
    name: str, source: str | Path | None, folder: Path, unpacked: Path, release_url: str, progress: Progress | None
) -> str:
    """Bring the pack's files into `unpacked`; returns where they came from, for the manifest."""
    if source is not None and not _is_address(source):
        path = Path(source)
        if not path.exists():
            raise InvalidPack(f"There is no file or folder {path.name} to install from")
        collect(path, unpacked)
        return f"installed by the operator from {path.name}"
    known = KNOWN_PACKS.get(name) if source is None else None
    url = f"{release_url}{known.archive_name}" if known else str(source)
    archive = folder / "archive.zip"
    digest = fetch(url, archive, sha256=known.archive_sha256 if known else None, progress=progress)
    collect(archive, unpacked)
    archive.unlink()
    return f"{public_address(url)} (SHA-256 of the archive: {digest})"


def _is_address(source: str | Path) -> bool:
    return isinstance(source, str) and source.startswith(("https://", "http://"))


def _take(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InvalidPack(f"The pack's file {source.name} is missing")
    if source.suffix == ".onnx":
        _refuse_external_data(_read_graph(source), source.name)
    source.rename(target)


def _quickened(folder: Path, manifest: PackManifest) -> PackManifest:
    """The pack with a quicker graph of the same embedder, where there is one; the contract stays that of the original."""
    original, quicker = manifest.files["embedder"], folder / "embedder_quicker.onnx"
    if not write_quicker(folder / original.name, quicker):
        return manifest
    quicker.replace(folder / original.name)
    file = PackFile(name=original.name, sha256=file_sha256(folder / original.name))
    return manifest.model_copy(update={"files": manifest.files | {"embedder": file}})


def _manifest(name: str, unpacked: Path, origin: str, facts: PackFacts | None) -> PackManifest:
    if not (unpacked / MANIFEST_NAME).exists():
        return _manifest_from_graphs(name, unpacked, origin, facts or PackFacts())
    if facts is not None:
        raise InvalidPack("The pack has a manifest with its own licence and threshold; change them there")
    manifest = read_manifest(unpacked)
    if manifest.name != name:
        raise InvalidPack(f"The pack's manifest says that its name is {manifest.name}, not {name}")
    return manifest


def _manifest_from_graphs(name: str, unpacked: Path, origin: str, facts: PackFacts) -> PackManifest:
    graphs = {path: _read_graph(path).graph for path in sorted(unpacked.glob("*.onnx"))}
    detector = _only(
        [path for path, graph in graphs.items() if _is_detector(graph)], "an SCRFD detector with landmarks"
    )
    embedder = _only([path for path, graph in graphs.items() if _is_embedder(graph)], "an ArcFace-shaped embedder")
    known = KNOWN_PACKS.get(name)
    digest = file_sha256(embedder)
    return PackManifest(
        name=name,
        title=known.title if known else f"{name}: SCRFD detector {detector.name}, embedder {embedder.name}",
        kind="insightface",
        files={
            "detector": PackFile(name=detector.name, sha256=file_sha256(detector)),
            "embedder": PackFile(name=embedder.name, sha256=digest),
        },
        weights_sha256=digest,
        dimension=_dimension(graphs[embedder]),
        alignment=f"arcface-{CHIP_SIZE_PX}",
        calibration=_calibration(facts, is_known=known is not None),
        licence=INSIGHTFACE_LICENCE if known else _licence(facts),
        source=origin,
        min_sharpness=INSIGHTFACE_MIN_SHARPNESS,
    )


def _calibration(facts: PackFacts, *, is_known: bool) -> Calibration:
    if facts.threshold is None:
        if is_known:
            return INSIGHTFACE_CALIBRATION
        raise InvalidPack("A pack without manifest needs a threshold (cosine distance)")
    if not 0 < facts.threshold < 2:
        raise InvalidPack("A threshold is a cosine distance between 0 and 2")
    # A tighter scale of distances makes for a steeper curve and a narrower margin.
    scale = INSIGHTFACE_CALIBRATION.threshold / facts.threshold
    return Calibration(
        threshold=facts.threshold,
        slope=INSIGHTFACE_CALIBRATION.slope * scale,
        margin=INSIGHTFACE_CALIBRATION.margin / scale,
        basis="Threshold: given at installation. Slope and margin: in proportion to it.",
    )


def _licence(facts: PackFacts) -> Licence:
    if not facts.licence or not facts.licence.strip():
        raise InvalidPack("A pack without manifest needs the name of its licence")
    return Licence(name=facts.licence.strip()[:2000], non_commercial=facts.non_commercial)


def _read_graph(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise InvalidPack(f"The file {path.name} is not an ONNX model") from error


def _refuse_external_data(model: onnx.ModelProto, name: str) -> None:
    """An ONNX file may name other files, anywhere, that hold its weights; their digests would not be in the manifest."""
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InvalidPack(f"The model {name} keeps its weights in other files")


def _only(paths: Sequence[Path], what: str) -> Path:
    if len(paths) != 1:
        found = f"{len(paths)} of them" if paths else "none"
        raise InvalidPack(f"A pack without manifest must hold exactly one ONNX file that is {what}; there is {found}")
    return paths[0]


def _shape(value: Any) -> list[int | None]:
    """Sizes of a graph's input or output; None where they are open."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]


def _is_detector(graph: onnx.GraphProto) -> bool:
    return len(graph.output) in _DETECTOR_OUTPUTS and len(_shape(graph.input[0])) == 4


def _is_embedder(graph: onnx.GraphProto) -> bool:
    if len(graph.output) != 1 or not graph.input:
        return False
    return _shape(graph.input[0])[1:] == [3, CHIP_SIZE_PX, CHIP_SIZE_PX] and _dimension(graph) > 1


def _dimension(graph: onnx.GraphProto) -> int:
    """Length of the embeddings; 0 where the output is no list of vectors."""
    shape = _shape(graph.output[0])
    return shape[1] or 0 if len(shape) == 2 else 0
