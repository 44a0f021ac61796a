"""Decides how a dataset moves into a domain. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.datasets.contracts import deepface_model, fits_contract
from app.datasets.rows import DatasetInfo
from app.errors import ContractMismatch, InvalidRequest
from app.vision.packs import PackManifest

Mode = Literal["copy", "reembed"]
MODES: Final[tuple[Literal["auto"] | Mode, ...]] = ("auto", "copy", "reembed")


@dataclass(frozen=True, slots=True)
class Target:
    """The domain that a dataset moves into.

    Attributes:
        domain: its name.
        model: name of its pack, or, where it has yet to be made, of the active one.
        contract, dimension: of the embeddings that it holds, or will hold.
        exists: whether it is there already.
    """

    domain: str
    model: str
    contract: str
    dimension: int
    exists: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How a dataset moves into a domain, and why so."""

    info: DatasetInfo
    target: Target
    mode: Mode
    reason: str


def choose(
    info: DatasetInfo, target: Target, pack: PackManifest, wanted: Literal["auto"] | Mode, images: Path | None
) -> Plan:
    """Choose the mode, or check the one that is wanted.

    Args:
        pack: the active one, whose measures decide which pictures are embedded.
        images: folder with the dataset's pictures, where there is one.

    Raises:
        ContractMismatch: vectors of two models would be mixed, or pictures judged by the measures of another one.
        InvalidRequest: embedding anew is wanted, but there is no folder of pictures.
    """
    fits = fits_contract(info.model, target.contract)
    if wanted == "reembed" and images is None:
        raise InvalidRequest("--mode reembed needs the pictures: --images FOLDER.")
    if wanted == "copy" and not fits:
        raise ContractMismatch(f"{_models(info, target)}: copying them would mix two models.")
    if wanted == "auto" and not fits and images is None:
        raise ContractMismatch(
            f"{_models(info, target)}: copying them would mix two models. Give --images FOLDER to embed the pictures anew,"
            " or choose the pack that made them."
        )
    mode: Mode = ("copy" if fits else "reembed") if wanted == "auto" else wanted
    if mode == "reembed" and pack.contract.id != target.contract:
        raise ContractMismatch(
            f"Domain {target.domain!r} is of the model pack {target.model!r} ({target.contract}), and {pack.name!r}"
            f" ({pack.contract.id}) is chosen: pictures are embedded with the domain's own only."
            " Choose it (flask --app wsgi models use) and restart the service."
        )
    return Plan(info, target, mode, _reason(info, target, mode, fits=fits))


def _models(info: DatasetInfo, target: Target) -> str:
    where = f"domain {target.domain!r}" if target.exists else f"model pack {target.model!r}"
    return (
        f"The dataset's vectors are of {info.model!r}, those of {where} of {deepface_model(target.contract)!r}"
        f" ({target.contract})"
    )


def _reason(info: DatasetInfo, target: Target, mode: Mode, *, fits: bool) -> str:
    if mode == "copy":
        return f"the vectors of {info.model!r} are those of the pack {target.model!r}"
    if fits:
        return "asked for, although the vectors could be copied"
    return f"the vectors of {info.model!r} cannot be compared with those of the pack {target.model!r}"
