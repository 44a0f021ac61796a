"""Takes a person out of a dataset, in a process of its own: `python -m app.datasets.erase SOURCE`, the labels on its input.

The rows of a large dataset, and the minutes that it takes to go through them, are not the web's. Labels in the command line
could be read by everybody on the machine.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from app.config import PROJECT_ROOT
from app.datasets.environment import BARE_ENVIRONMENT
from app.datasets.filtering import remove_person
from app.errors import DatasetError, DatasetNotWritten, DatasetUnavailable, FacedexError

_KINDS: Final[dict[str, type[DatasetError]]] = {DatasetNotWritten.code: DatasetNotWritten}
_TIDYING_S: Final = 5.0


def remove_in_process(path: Path, labels: Collection[str], *, allow_numpy: bool, timeout_s: float) -> int:
    """As `app.datasets.filtering.remove_person`, in another process.

    Args:
        timeout_s: how long it may take.

    Raises:
        DatasetNotWritten: as there; or it took longer.
        DatasetUnavailable: the dataset cannot be read.
    """
    argv = [sys.executable, "-m", "app.datasets.erase", *(["--allow-numpy"] if allow_numpy else []), "--", str(path)]
    process = subprocess.Popen(
        argv, cwd=PROJECT_ROOT, env=BARE_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        told = _told(process, json.dumps([*labels]).encode(), timeout_s)
    try:
        answer: dict[str, Any] = json.loads(told)
    except ValueError:
        raise DatasetUnavailable("The process that rewrites the dataset died.") from None
    if "error" in answer:
        raise _KINDS.get(answer["error"], DatasetUnavailable)(answer["message"])
    return int(answer["removed"])


def _told(process: subprocess.Popen[bytes], given: bytes, timeout_s: float) -> bytes:
    try:
        return process.communicate(given, timeout_s)[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # it removes what it has written so far
        try:
            process.wait(_TIDYING_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise DatasetNotWritten("Rewriting the dataset took too long.") from None
    except BaseException:
        process.kill()
        raise


def _stop(*_: object) -> None:
    sys.exit(1)


def main() -> int:
    """Rewrite one dataset; the exit code. What came of it is told as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="app.datasets.erase")
    parser.add_argument("source", type=Path)
    parser.add_argument("--allow-numpy", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        labels = json.load(sys.stdin.buffer)
        answer: dict[str, Any] = {"removed": remove_person(given.source, labels, allow_numpy=given.allow_numpy)}
    except FacedexError as error:
        answer = {"error": error.code, "message": str(error)}
    sys.stdout.write(json.dumps(answer))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
