"""The process that parses: what it inherits, what it may, and what becomes of a reader whose process fails."""

import ctypes
import io
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app.datasets import child, sandbox
from app.datasets.deepface import read_batches
from app.datasets.frames import write_frame
from app.datasets.rows import MIB, ReadLimits
from app.errors import DatasetTooLarge, InvalidDataset
from tests.datasets.making import NAMES, as_dicts, dump, identities, read_all, vectors

ROOT = Path(__file__).resolve().parents[2]
# Prints what still succeeds after the rights are gone.
TRIES = """
import os, resource, socket, sys
from app.datasets import child
folder = sys.argv[1]
tries = {
    "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "make a file": lambda: os.open(folder + "/canary", os.O_CREAT | os.O_WRONLY),
    "list": lambda: os.listdir("/"),
    "make a folder": lambda: os.mkdir(folder + "/canary"),
    "remove": lambda: os.rmdir(folder + "/there"),
    "rename": lambda: os.rename(folder + "/there", folder + "/canary"),
    "fork": os.fork,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "connect": socket.socket,
    "pipe": os.pipe,
    "memory": lambda: bytearray(1024**3),
    "become root": lambda: os.setresuid(0, 0, 0),
    "lift a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
}
if "before" not in sys.argv:
    child.give_up_rights(1024**3, 10)
for name in sys.argv[2].split(","):
    try:
        tries[name]()
    except (OSError, MemoryError, ValueError):
        continue
    os.write(1, name.encode() + b"\\n")
"""
BY_LIMITS = ["open", "make a file", "list", "fork", "connect", "pipe", "memory", "lift a limit"]
BY_LANDLOCK = ["make a folder", "remove", "rename", "execute"]


def succeeding(tmp_path: Path, *names: str, when: str = "after") -> list[str]:
    argv = [sys.executable, "-c", TRIES, str(tmp_path), ",".join(names), when]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def open_folder():
    """A folder that anybody may change and reach, which pytest's are not: permissions are not to be what stands in the way."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        Path(folder, "there").mkdir()
        yield Path(folder)


def test_the_tries_succeed_where_no_right_was_given_up(tmp_path):
    names = ["open", "list", "make a folder", "remove", "fork", "connect", "pipe", "memory"]
    (tmp_path / "there").mkdir()
    # A fork's child says so a second time.
    assert sorted(set(succeeding(tmp_path, *names, when="before"))) == sorted(names)


def test_the_parsing_process_can_open_and_start_nothing(open_folder):
    assert succeeding(open_folder, *BY_LIMITS) == []
    if os.getuid() == 0:
        assert succeeding(open_folder, "become root") == []
    assert [entry.name for entry in open_folder.iterdir()] == ["there"]


def test_the_parsing_process_can_make_and_remove_nothing(open_folder):
    if ctypes.CDLL(None).syscall(child._LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1) < 1:
        pytest.skip("needs a kernel with Landlock")
    assert succeeding(open_folder, *BY_LANDLOCK) == []
    assert [entry.name for entry in open_folder.iterdir()] == ["there"]


def test_the_parsing_process_inherits_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("VECTOR_DB_URL", "postgresql://secret")
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, argv, **options):
            super().__init__(argv, **options)
            process = Path(f"/proc/{self.pid}")
            until_s = time.monotonic() + 10
            while not (
                environment := (process / "environ").read_bytes()
            ):  # it has begun to be the program, and is not yet
                assert time.monotonic() < until_s
            files = set()
            for entry in (process / "fd").iterdir():
                with suppress(FileNotFoundError):  # which it has closed meanwhile: it was its own
                    files.add(entry.stat().st_ino)
            started.append((environment, (process / "cwd").readlink(), files, argv))

    monkeypatch.setattr(sandbox.subprocess, "Popen", Watched)
    with (tmp_path / "open").open("wb") as other:
        os.set_inheritable(other.fileno(), True)
        # More than a pipe holds: it is there for as long as it is looked at.
        read_all(dump(tmp_path, as_dicts(identities(8000), vectors(8000))))
        ((environment, folder, files, argv),) = started
        assert os.fstat(other.fileno()).st_ino not in files
    assert {entry.split(b"=")[0] for entry in environment.split(b"\0") if entry} == {b"OPENBLAS_NUM_THREADS", b"LC_ALL"}
    assert folder == Path("/")
    assert str(tmp_path) not in str(argv)


def test_a_file_that_takes_too_much_time_is_refused(tmp_path):
    path = tmp_path / NAMES["new"]
    path.write_bytes(b"\x80\x02]" + b"Na" * 4_000_000 + b".")
    for limits in (ReadLimits(cpu_s=1, cpu_s_per_mib=0), ReadLimits(silence_s=0)):
        with pytest.raises(DatasetTooLarge):
            read_all(path, limits=limits)


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path):
    """A list takes one byte of the file, and sixty of memory until the rows around it are complete."""
    limits = ReadLimits(memory_bytes=200 * MIB)
    read_all(dump(tmp_path, as_dicts(identities(2000), vectors(2000))), limits=limits)
    path = tmp_path / NAMES["new"]
    path.write_bytes(b"\x80\x04](" + (b"](" + b"]" * 60_000 + b"e") * 60 + b"e.")
    with pytest.raises(DatasetTooLarge):
        read_all(path, limits=limits)


def test_a_process_that_dies_is_a_refusal(tmp_path, monkeypatch):
    for ending in ("os.abort()", "os.kill(os.getpid(), 9)", "os._exit(3)", "raise SystemExit('no')"):
        script = tmp_path / "child.py"
        script.write_text(f"import os; {ending}")
        monkeypatch.setattr(sandbox.child, "__file__", str(script))
        with pytest.raises(DatasetTooLarge if "kill" in ending else InvalidDataset):
            read_all(dump(tmp_path, []))


def _frame(header: dict) -> bytes:
    stream = io.BytesIO()
    write_frame(stream, header)
    return stream.getvalue()


NONSENSE = {
    "half a length": b"\x01",
    "no JSON": bytes(8),
    "more than is ever sent": b"\xff" * 100,
    "a list": b"\x02\0\0\0\0\0\0\0[]",
    "no rows": b"\x02\0\0\0\0\0\0\0{}",
    "deep JSON": (10**6).to_bytes(8, "little") + b"[" * 10**6,
    "a negative length": _frame({"identities": ["a", "b"], "boxes": [None, None], "lengths": [-1, 1], "malformed": 0}),
    "a box outside": _frame({"identities": ["a"], "boxes": [[-1, 0, 1, 1]], "lengths": [0], "malformed": 0}),
    "a name that is none": _frame({"identities": [7], "boxes": [None], "lengths": [0], "malformed": 0}),
    "vectors that do not come": _frame({"identities": ["a"], "boxes": [None], "lengths": [9], "malformed": 0}),
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_a_process_that_talks_nonsense_is_not_believed(tmp_path, monkeypatch, said):
    """As if a hostile file had taken it over."""
    script = tmp_path / "child.py"
    (tmp_path / "said").write_bytes(said)
    script.write_text(f"import sys; sys.stdout.buffer.write(open({str(tmp_path / 'said')!r}, 'rb').read())")
    monkeypatch.setattr(sandbox.child, "__file__", str(script))
    with pytest.raises(InvalidDataset):
        read_all(dump(tmp_path, []))


def test_a_reader_that_stops_early_leaves_no_process(tmp_path, monkeypatch):
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, argv, **options):
            super().__init__(argv, **options)
            started.append(self)

    monkeypatch.setattr(sandbox.subprocess, "Popen", Watched)
    batches = read_batches(dump(tmp_path, as_dicts(identities(8000), vectors(8000))))
    next(batches)
    batches.close()
    assert started[0].returncode is not None
