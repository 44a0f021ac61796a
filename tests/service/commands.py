"""`flask --app wsgi …` without what each costs to start: the program is loaded once, and forked for every command.

Each has a process, an environment and an exit status of its own; they run one after the other. That a command starts as an
operator starts it is tested elsewhere (`tests/cli/test_commands.py`, `tests/service/test_readme.py`).
"""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ENDED_WITHIN_S = 240  # before the test's own time is over


class Commands:
    """The process that has loaded the program, started with the first command and ended with the tests."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run one, and wait for its end."""
        with self._lock, tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = self._started()
            asked = {"arguments": [*arguments], "env": {**env}, "out": str(out), "err": str(err)}
            try:
                print(json.dumps(asked), file=process.stdin, flush=True)
                code = int(process.stdout.readline())
            except BaseException:  # its answer would be taken for the next one's
                process.kill()
                process.wait()
                self._process = None
                raise
            return subprocess.CompletedProcess([*arguments], code, out.read_text(), err.read_text())

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=ROOT,
                # BLAS would start threads, which a fork does not have.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(self._end, self._process)
        return self._process

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        process.stdin.close()
        process.wait()


def main() -> None:
    """Answer each line of the input, a command, with the exit status of a process of its own."""
    import app.cli  # noqa: F401 -- each command's imports stand in its own module
    from app.api import load_code

    load_code()
    gc.freeze()  # else each command, at its end, would take copies of all of it
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(asked)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def _become(asked: dict) -> None:
    """What `.venv/bin/flask` does, in the process that was forked for it."""
    from flask.cli import cli

    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["out"], os.O_WRONLY | os.O_CREAT),
        (2, asked["err"], os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags, 0o600), number)
    os.environ.clear()
    os.environ.update(asked["env"])
    signal.alarm(_ENDED_WITHIN_S)
    cli.main(["--app", "wsgi", *asked["arguments"]], prog_name="flask")  # does not return


if __name__ == "__main__":
    main()
