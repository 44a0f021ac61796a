"""onnxruntime, set up for one worker process per core."""

from pathlib import Path

import onnxruntime

from app.errors import InvalidPack

_LOG_ERRORS_ONLY = 3


def session_options() -> onnxruntime.SessionOptions:
    """One thread: with a worker per core, more threads only get in each other's way (design: 2 are slower than 1).

    The memory arena is off: it keeps the largest batch's memory for ever, and was measured to save nothing here.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _LOG_ERRORS_ONLY
    return options


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Load an ONNX file on the CPU.

    Raises:
        InvalidPack: it cannot be read, or is no graph that this onnxruntime can run.
    """
    try:
        return onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class but this
        raise InvalidPack(f"The file {path.name} is not an ONNX model that can be run") from error
