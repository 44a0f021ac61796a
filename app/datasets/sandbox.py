"""Has a file parsed by a process that has no rights, and believes nothing that it says."""

import json
import math
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from app.datasets import child
from app.datasets.frames import LENGTHS_BYTES, FrameError, parse_lengths
from app.datasets.rows import MIB, ReadLimits
from app.deadline import Deadline
from app.errors import DatasetError, DatasetTooLarge, InvalidDataset, UnsafeDataset

log = structlog.stdlib.get_logger("facedex.datasets")

# All that the process gets of an environment: BLAS would reserve memory for a thread a core.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
_REFUSALS: Final = {kind.code: kind for kind in (InvalidDataset, UnsafeDataset, DatasetTooLarge)}
_MESSAGE_MAX_CHARS: Final = 300
_LOG_MAX_BYTES: Final = 4096

Frame = tuple[dict[str, Any], bytes]


class Parser:
    """A running process that parses a file."""

    def __init__(self, process: subprocess.Popen[bytes], silence_s: float) -> None:
        self._process = process
        self._silence_s = silence_s

    def frames(self) -> Iterator[Frame]:
        """What it says, up to its `end`.

        Raises:
            UnsafeDataset, InvalidDataset, DatasetTooLarge: what it refused the file for, or what became of it.
        """
        while True:
            header, raw = self._frame()
            if "error" in header:
                raise _REFUSALS.get(str(header["error"]), InvalidDataset)(_harmless(str(header.get("message"))))
            yield header, raw
            if "end" in header:
                return

    def _frame(self) -> Frame:
        try:
            json_bytes, raw_bytes = parse_lengths(self._read(LENGTHS_BYTES))
            header = json.loads(self._read(json_bytes))
            if not isinstance(header, dict):
                raise FrameError
            return header, self._read(raw_bytes)
        except (FrameError, ValueError, RecursionError) as error:
            raise InvalidDataset("The process that parsed the dataset answered nonsense.") from error

    def _read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        pipe, data, deadline = self._process.stdout.fileno(), bytearray(), Deadline.after(self._silence_s)
        answer = select.poll()  # not select(), which knows no descriptor above 1023
        answer.register(pipe, select.POLLIN)
        while len(data) < count:
            if not answer.poll(deadline.remaining_s() * 1000):
                raise DatasetTooLarge(f"The dataset took more than {self._silence_s:g} s to parse.")
            part = os.read(pipe, min(count - len(data), MIB))
            if not part:
                raise self._death()
            data += part
        return bytes(data)

    def _death(self) -> DatasetError:
        self._process.kill()
        code = self._process.wait()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return DatasetTooLarge("The dataset takes more time or memory to parse than is allowed.")
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        said = self._process.stderr.read(_LOG_MAX_BYTES) or b""
        log.error("[DATASETS] the parsing process died", code=code, said=said.decode("utf-8", "replace"))
        return InvalidDataset("The process that parsed the dataset died.")


@contextmanager
def parser(file: int, size: int, limits: ReadLimits, *, allow_numpy: bool) -> Iterator[Parser]:
    """A process that parses an opened file; it ends with the block.

    Args:
        file: descriptor of a regular file, at its start.
        size: its length in bytes.
    """
    order = {
        "memory_bytes": limits.memory_bytes,
        "cpu_s": math.ceil(limits.cpu_s + limits.cpu_s_per_mib * size / MIB),
        "max_rows": limits.max_rows,
        "allow_numpy": allow_numpy,
    }
    # Isolated: no PYTHON… variables, no modules of the user's or of the working directory.
    argv = [sys.executable, "-I", "-B", str(Path(child.__file__)), json.dumps(order)]
    process = subprocess.Popen(
        argv, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT, cwd="/", close_fds=True
    )
    with process:
        try:
            yield Parser(process, limits.silence_s)
        finally:
            process.kill()


def _harmless(message: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in message[:_MESSAGE_MAX_CHARS])
