"""onnxruntime, set up for one worker process per core."""

import os
from pathlib import Path

# The official builds report to Microsoft unless told not to before they are loaded (onnxruntime, Privacy.md). A service that
# holds people's faces reports to nobody.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import cv2
from onnxruntime import InferenceSession, SessionOptions

from app.errors import InvalidPack
from app.vision.memory import is_lack_of_memory

__all__ = ["InferenceSession", "open_session", "session_options"]

_LOG_ERRORS_ONLY = 3

# OpenCV would start a thread per core in each of the workers, of which there is one per core already.
cv2.setNumThreads(1)


def session_options() -> SessionOptions:
    """One thread: with a worker per core, more threads only get in each other's way (design: 2 are slower than 1).

    The memory arena is off: it keeps the largest batch's memory for ever, and was measured to save nothing here.
    """
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _LOG_ERRORS_ONLY
    return options


def open_session(path: Path) -> InferenceSession:
    """Load an ONNX file on the CPU.

    Raises:
        InvalidPack: it cannot be read, or is no graph that this onnxruntime can run.
        MemoryError: there is not enough for it.
    """
    try:
        return InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class but this
        if is_lack_of_memory(error):
            raise MemoryError from error
        raise InvalidPack(f"The file {path.name} is not an ONNX model that can be run") from error
