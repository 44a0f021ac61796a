"""Which of DeepFace's models makes the same embeddings as which contract of ours. Pure."""

import re
from typing import Final

from app.vision.dlib_weights import WEIGHTS_SHA256
from app.vision.packs import EmbeddingContract

# DeepFace's `Dlib` is dlib's own network on dlib's own chips. No other of its models is a network that a pack of ours has:
# its `ArcFace` has other weights than insightface's.
_CONTRACTS: Final = {"dlib": EmbeddingContract(WEIGHTS_SHA256, "dlib-chip-150-0.25", 128).id}
_MODELS: Final = {contract: model for model, contract in _CONTRACTS.items()}
# What a file's name may hold, and no underscore: DeepFace's file names are divided by it.
_FORBIDDEN: Final = re.compile(r"[^a-z0-9.-]+")


def deepface_model(contract: str) -> str:
    """The model that a dataset's file name gives for embeddings of a contract, by `EmbeddingContract.id`.

    DeepFace's own name where it has that network. Else the contract itself, e.g. `arcface-112-512-b7120c095d60094f`, for which
    DeepFace has no model, so that its vectors are never taken for those of another network.
    """
    return _MODELS.get(contract) or _FORBIDDEN.sub("-", contract.lower())


def fits_contract(model: str, contract: str) -> bool:
    """Whether the vectors of a dataset of `model` (`DatasetInfo.model`) can be compared with those of a contract."""
    return model == deepface_model(contract)
