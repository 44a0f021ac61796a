"""Model packs: what a pack says about itself, and the folder where the installed ones live.

A pack is a folder `models_dir/<name>/` with a `manifest.json` and the files that it names. This module needs no model
runtime, so that the web process may import it.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from app.errors import InvalidPack, UnknownModel

DEFAULT_PACK = "dlib"
MANIFEST_NAME = "manifest.json"
_ACTIVE_FILE = "active"
_MANIFEST_MAX_BYTES = 64 * 1024
# The rate at a threshold that was chosen the usual way.
_SUPPOSED_RATE = 1e-3
_PACK_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Which files each kind of pack needs, by role.
_ROLES = {"dlib": {"embedder", "landmarks"}, "insightface": {"detector", "embedder"}}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PackName = Annotated[str, StringConstraints(pattern=f"^{_PACK_NAME.pattern}$")]
# A plain name: no folder, so nothing a manifest names can lie outside its pack.
Rate = Annotated[float, Field(gt=0, lt=1)]
Distance = Annotated[float, Field(gt=0, lt=2)]
FileName = Annotated[str, StringConstraints(pattern=f"^{_FILE_NAME.pattern}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """What makes two embeddings comparable. Vectors of different contracts are never compared.

    Attributes:
        embedder_sha256: digest of the embedder's weights as their author published them.
        alignment: how a face is cut out for the embedder, e.g. `arcface-112`.
        dimension: length of the vector.
    """

    embedder_sha256: str
    alignment: str
    dimension: int

    @property
    def id(self) -> str:
        """A short stable name, e.g. `arcface-112:128:b7120c095d60094f`: equal where embeddings can be compared."""
        return f"{self.alignment}:{self.dimension}:{self.embedder_sha256[:16]}"


def contract_dimension(contract_id: str) -> int:
    """The length of the vectors of an `EmbeddingContract.id`."""
    return int(contract_id.split(":")[1])


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FalseMatches(_Frozen):
    """How often somebody else comes as near to a person's templates as that.

    Attributes:
        points: rates, falling, each with the distance that this share of other people's pictures does not exceed, falling too.
        basis: what they were measured on, and how sure they are, for the operator.
    """

    points: tuple[tuple[Rate, Distance], ...] = Field(min_length=2, max_length=20)
    basis: Text

    @model_validator(mode="after")
    def _falling(self) -> Self:
        for column in zip(*self.points, strict=True):
            if any(one <= other for one, other in pairwise(column)):
                raise ValueError("rates and distances have to fall, from each point to the next")
        return self


class Calibration(_Frozen):
    """How cosine distances of one pack are read.

    Attributes:
        threshold: largest cosine distance (0 to 2) at which two faces count as one person's.
        slope: steepness of the logistic function that maps a distance to a confidence, per unit of distance.
        margin: smallest lead, in distance, of the best person over the second; below it the face is ambiguous.
        basis: what the three numbers were measured on, for the operator.
        false_matches: None where nobody has measured it: `distance_at` then supposes something.
    """

    threshold: float = Field(gt=0, lt=2)
    slope: float = Field(gt=0, le=10_000)
    margin: float = Field(ge=0, lt=1)
    basis: Text
    false_matches: FalseMatches | None = None

    def distance_at(self, rate: float) -> float:
        """The distance that other people's pictures do not exceed more often than that, to the nearest of a person's templates.

        Between two measured points, and beyond the last, the logarithm of the rate is taken to be a straight line. Where nothing
        was measured: one in a thousand at the threshold, and the odds that `slope` states for every step below it.

        Args:
            rate: share of impostors, above 0, below 1.

        Returns:
            a cosine distance, at most `threshold`; 0 or less where there is none at which the rate could be promised.
        """
        if self.false_matches is None:
            return min(self.threshold, self.threshold - math.log(_SUPPOSED_RATE / rate) / self.slope)
        points = self.false_matches.points
        above, below = next(
            ((one, other) for one, other in pairwise(points) if other[0] <= rate), (points[-2], points[-1])
        )
        share = math.log(above[0] / rate) / math.log(above[0] / below[0])
        return min(self.threshold, above[1] - share * (above[1] - below[1]))

    def confidence(self, distance: float) -> float:
        """Calibrated probability in percent that a template at this cosine distance shows the same person.

        Falls strictly with the distance (down to float precision), 50 at the threshold.
        """
        exponent = min(700.0, max(-700.0, self.slope * (distance - self.threshold)))
        return 100.0 / (1.0 + math.exp(exponent))


class Licence(_Frozen):
    """Under which terms the pack's weights may be used.

    Attributes:
        name: the terms in a line.
        non_commercial: whether commercial use is excluded.
        must_accept: whether an operator has to accept the terms before installation.
    """

    name: Text
    non_commercial: bool
    must_accept: bool = True


class PackFile(_Frozen):
    """One file of a pack and its digest."""

    name: FileName
    sha256: Sha256


class PackManifest(_Frozen):
    """The contents of `manifest.json`.

    Attributes:
        files: by role: `embedder` and `landmarks` (dlib), or `detector` and `embedder` (insightface).
        weights_sha256: digest of the weights that the embedder file was made from; the file's own digest where it is
            the original.
        min_sharpness: least `FaceQuality.sharpness` of a face that may be enrolled.
    """

    format: Literal[1] = 1
    name: PackName
    title: Text
    kind: Literal["dlib", "insightface"]
    files: dict[str, PackFile]
    weights_sha256: Sha256
    dimension: int = Field(ge=2, le=1536)  # what a row of the database holds inline
    metric: Literal["cosine"] = "cosine"
    alignment: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    calibration: Calibration
    licence: Licence
    source: Text
    min_sharpness: float = Field(ge=0)

    @model_validator(mode="after")
    def _roles_of_kind(self) -> Self:
        if set(self.files) != _ROLES[self.kind]:
            raise ValueError(f"a pack of kind {self.kind} has exactly the files {', '.join(sorted(_ROLES[self.kind]))}")
        return self

    @property
    def contract(self) -> EmbeddingContract:
        """The contract of the embeddings that this pack makes."""
        return EmbeddingContract(self.weights_sha256, self.alignment, self.dimension)


@dataclass(frozen=True, slots=True)
class InstalledPack:
    """A pack on this machine: its folder and its manifest. Digests are checked by `verify`, not by making one."""

    folder: Path
    manifest: PackManifest

    def path(self, role: str) -> Path:
        """Where the file of that role lies."""
        return self.folder / self.manifest.files[role].name

    def verify(self) -> None:
        """Read every file and compare its digest.

        Raises:
            InvalidPack: a file is missing, is not a plain file of the folder, or has another digest.
        """
        for role, file in sorted(self.manifest.files.items()):
            path = self.path(role)
            if path.is_symlink() or not path.is_file():
                raise InvalidPack(f"Model pack {self.manifest.name}: the file {file.name} is missing")
            try:
                digest = file_sha256(path)
            except OSError as error:
                raise InvalidPack(f"Model pack {self.manifest.name}: the file {file.name} cannot be read") from error
            if digest != file.sha256:
                raise InvalidPack(
                    f"Model pack {self.manifest.name}: the file {file.name} is not the one that was installed"
                )


class PackStore:
    """The installed packs under one folder, and which of them is the active one."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir

    def names(self) -> list[str]:
        """Names of the installed packs, sorted; a pack with a broken manifest is listed too."""
        if not self.models_dir.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.models_dir.iterdir()
            if is_pack_name(entry.name) and (entry / MANIFEST_NAME).is_file()
        )

    def get(self, name: str) -> InstalledPack:
        """The pack of that name.

        Raises:
            UnknownModel: none is installed under that name.
            InvalidPack: its manifest is malformed or belongs to another pack.
        """
        if name not in (names := self.names()):
            raise UnknownModel(f"No model pack named {name!r} is installed; installed: {', '.join(names) or 'none'}")
        folder = self.models_dir / name
        manifest = read_manifest(folder)
        if manifest.name != name:
            raise InvalidPack(f"The folder of model pack {name} holds the pack {manifest.name}")
        return InstalledPack(folder, manifest)

    def active(self, override: str | None = None) -> InstalledPack:
        """The pack to load: `override` (the setting FACE_MODEL), else the one chosen by `use`, else `dlib`.

        Raises:
            UnknownModel: it is not installed.
            InvalidPack: its manifest is malformed.
        """
        return self.get(self.active_name(override))

    def active_name(self, override: str | None = None) -> str:
        """The name that `active` looks up, installed or not."""
        if override:
            return override
        try:
            return (self.models_dir / _ACTIVE_FILE).read_text("utf-8").strip() or DEFAULT_PACK
        except FileNotFoundError:
            return DEFAULT_PACK
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidPack("The file that names the active model pack cannot be read") from error

    def use(self, name: str) -> InstalledPack:
        """Make a pack the active one, once its digests are right.

        Raises:
            UnknownModel, InvalidPack: as `verify`.
        """
        pack = self.verify(name)
        write_text_atomically(self.models_dir / _ACTIVE_FILE, name + "\n")
        return pack

    def verify(self, name: str) -> InstalledPack:
        """Read all files of a pack and compare their digests.

        Raises:
            UnknownModel: none is installed under that name.
            InvalidPack: the manifest is malformed, or a file is missing or has another digest.
        """
        pack = self.get(name)
        pack.verify()
        return pack


def is_pack_name(name: str) -> bool:
    """Whether `name` may name a pack, and so a folder."""
    return _PACK_NAME.fullmatch(name) is not None and name != _ACTIVE_FILE


def is_file_name(name: str) -> bool:
    """Whether `name` may name a file of a pack: a plain name, without folders."""
    return _FILE_NAME.fullmatch(name) is not None


def read_manifest(folder: Path) -> PackManifest:
    """Parse `folder/manifest.json`.

    Raises:
        InvalidPack: it is missing, too long, not JSON, or says something malformed; the message names each field.
    """
    try:
        with (folder / MANIFEST_NAME).open("rb") as stream:
            text = stream.read(_MANIFEST_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidPack(f"The manifest of model pack {folder.name} cannot be read") from error
    if len(text) > _MANIFEST_MAX_BYTES:
        raise InvalidPack(f"The manifest of model pack {folder.name} is longer than {_MANIFEST_MAX_BYTES} bytes")
    try:
        return PackManifest.model_validate_json(text)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise InvalidPack(f"The manifest of model pack {folder.name} is malformed: {'; '.join(faults)}") from error


def write_manifest(folder: Path, manifest: PackManifest) -> None:
    """Write `folder/manifest.json`, for a person to read too."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    write_text_atomically(folder / MANIFEST_NAME, text)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, also after a crash."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
