"""DeepFace's names of models, detectors and files."""

import re
from typing import Final, Literal

UNKNOWN_MODEL: Final = "unknown"
# Of the names that `app.datasets.contracts` gives to models which DeepFace does not have.
OWN_MODEL_PREFIX: Final = "facedex"

# DeepFace's names in lower case, and the lengths that each model's vectors had over the years.
# Source: `deepface/models/facial_recognition`.
MODEL_DIMENSIONS: Final[dict[str, tuple[int, ...]]] = {
    "vgg-face": (2622, 4096),
    "facenet": (128,),
    "facenet512": (512,),
    "openface": (128,),
    "deepface": (4096,),
    "deepid": (160,),
    "dlib": (128,),
    "arcface": (512,),
    "sface": (128,),
    "ghostfacenet": (512,),
    "buffalo_l": (512,),
}
_BY_BARE_NAME: Final = {re.sub("[-_]", "", name): name for name in MODEL_DIMENSIONS}

# From 0.0.90, 0.0.86 to 0.0.89, and before.
_FILE_NAMES: Final = (
    re.compile(r"ds_model_(?P<model>.+?)_detector_(?P<detector>.+?)_(?:un)?aligned(?:_.*)?"),
    re.compile(r"ds_(?P<model>[^_]+)_(?P<detector>.+)_v2"),
    re.compile(r"representations_(?P<model>.+)"),
)


def model_and_detector(file_name: str) -> tuple[str, str | None]:
    """What DeepFace's name for a file says: the model, `unknown` where it is none of DeepFace's or ours, and the detector."""
    stem = file_name.lower().rpartition(".")[0]
    for pattern in _FILE_NAMES:
        if found := pattern.fullmatch(stem):
            bare = re.sub("[-_]", "", found["model"])
            model = bare if bare.startswith(OWN_MODEL_PREFIX) else _BY_BARE_NAME.get(bare, UNKNOWN_MODEL)
            return model, found.groupdict().get("detector")
    return UNKNOWN_MODEL, None


def deepface_file_name(model: str, detector: str, *, form: Literal["pkl", "npz"] = "pkl") -> str:
    """The name under which DeepFace from 0.0.90 (npz: from 0.0.102) looks for a dataset, with its defaults for all but these.

    Source: `find` in `deepface/modules/recognition.py`.
    """
    parts = ("ds", "model", model, "detector", detector, "aligned", "normalization", "base", "expand", "0")
    return "_".join(parts).replace("-", "").lower() + f".{form}"


def picture_identity(label: str, number: int) -> str:
    """A path for a person's picture where none is kept, from which `app.datasets.labels` tells the person again.

    Slashes, which part folders, become others that look alike: in labels that have one, it is another character afterwards.
    """
    folder = label.replace("/", "\N{DIVISION SLASH}").replace("\\", "\N{REVERSE SOLIDUS OPERATOR}")
    return f"{folder}/{folder}_{number}.jpg"
