"""What a dataset's file name says of its vectors' contract. Pure."""

import re
from typing import Final

from app.datasets.names import OWN_MODEL_PREFIX
from app.vision.dlib_weights import DIMENSION, WEIGHTS_SHA256

_DLIB: Final = "dlib"
# DeepFace's file names are divided by underscores, and it leaves hyphens away.
_FORBIDDEN: Final = re.compile(r"[^a-z0-9.]+")


def deepface_model(contract: str) -> str:
    """The model that a dataset's file name gives for embeddings of a contract, by `EmbeddingContract.id`.

    DeepFace's own name where it has that network. Else the contract itself, e.g. `facedexarcface112512b7120c095d60094f`, for
    which DeepFace has no model, so that its vectors are never taken for those of another network.
    """
    return _DLIB if _is_dlib(contract) else OWN_MODEL_PREFIX + _FORBIDDEN.sub("", contract.lower())


def fits_contract(model: str, contract: str) -> bool:
    """Whether the vectors of a dataset of `model` (`DatasetInfo.model`) can be compared with those of a contract.

    DeepFace's `Dlib` is dlib's own network on chips that dlib cut. No other of its models is a network that a pack of ours has:
    its `ArcFace` has other weights than insightface's.
    """
    return model == deepface_model(contract)


def _is_dlib(contract: str) -> bool:
    alignment, _, rest = contract.partition(":")
    return alignment.startswith("dlib-chip-") and rest == f"{DIMENSION}:{WEIGHTS_SHA256[:16]}"
