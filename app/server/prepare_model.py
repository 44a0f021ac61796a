"""Prepares the default model pack, in a process of its own: the supervisor must not hold a model runtime with its threads."""

import sys

from app.config import load_settings
from app.errors import FacedexError
from app.vision.dlib_onnx import prepare_dlib_pack

if __name__ == "__main__":
    try:
        prepare_dlib_pack(load_settings().models_dir)
    except FacedexError as error:
        sys.exit(str(error))
