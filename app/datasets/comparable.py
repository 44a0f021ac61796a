"""Which of DeepFace's models makes embeddings that can be compared with those of a model pack."""

from collections.abc import Callable
from typing import Final

from app.errors import ContractMismatch
from app.vision.dlib_weights import DIMENSION, WEIGHTS_SHA256


def _is_dlib_chip(contract: str) -> bool:
    """dlib's network on dlib's aligned chip; DeepFace cuts its chips with dlib's functions too."""
    alignment, _, rest = contract.partition(":")
    return alignment.startswith("dlib-chip-") and rest == f"{DIMENSION}:{WEIGHTS_SHA256[:16]}"


# DeepFace's model (`DatasetInfo.model`) → whether an embedding contract's id (`EmbeddingContract.id`) is the same model's.
# DeepFace's `ArcFace` is another network than insightface's, so it is not here.
_CONTRACTS: Final[dict[str, Callable[[str], bool]]] = {"dlib": _is_dlib_chip}


def has_pack(model: str) -> bool:
    """Whether any pack could be comparable with this model of DeepFace's."""
    return model in _CONTRACTS


def is_comparable(model: str, contract: str) -> bool:
    """Whether embeddings of this model of DeepFace's and of this contract's id can be compared."""
    return has_pack(model) and _CONTRACTS[model](contract)


def require_comparable(model: str, contract: str) -> None:
    """Refuse to mix models.

    Args:
        model: `DatasetInfo.model`.
        contract: `EmbeddingContract.id`.

    Raises:
        ContractMismatch: they are not comparable.
    """
    if not is_comparable(model, contract):
        raise ContractMismatch(
            f"The dataset holds embeddings of DeepFace's model {model!r}; they cannot be compared with those of {contract}."
        )
