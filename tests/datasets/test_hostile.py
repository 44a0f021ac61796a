"""No file makes the reader do anything but read, or refuse."""

import contextlib
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.datasets.deepface import read_batches
from app.errors import DatasetError, DatasetTooLarge, InvalidDataset, UnsafeDataset
from tests.datasets import costly, payloads
from tests.datasets.making import NAMES, parse_here, read_all

ROOT = Path(__file__).resolve().parents[2]
PAYLOADS = sorted(payloads.running_code(Path("/nowhere")))
COSTLY = sorted(costly.costly())
MEMORY_MIB = 256


def in_a_process(function: str, folder: Path) -> str:
    """What a function of this module prints, called with the folder."""
    source = f"import sys; from tests.datasets.test_hostile import {function} as f; f(sys.argv[1])"
    argv = [sys.executable, "-c", source, str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def unpickle_all(folder: str) -> None:
    """Prints which payloads reach their aim when `pickle` reads them."""
    payloads.warm_up()
    for name in PAYLOADS:
        canary = Path(folder, "canary")
        with contextlib.suppress(Exception):  # most end in nonsense, after they have run
            pickle.loads(payloads.running_code(canary)[name])
        for _ in range(1_500):  # some start a program, which takes its time
            if canary.exists():
                sys.stdout.write(f"{name}\n")
                break
            time.sleep(0.02)
        shutil.rmtree(canary) if canary.is_dir() else canary.unlink(missing_ok=True)


def test_every_payload_runs_where_it_is_unpickled(tmp_path):
    assert in_a_process("unpickle_all", tmp_path).splitlines() == PAYLOADS
    assert len(PAYLOADS) >= 50


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_leaves_a_trace(tmp_path, name):
    data = payloads.running_code(tmp_path / "canary")[name]
    path = tmp_path / NAMES["new"]
    path.write_bytes(data)
    for allow_numpy in (False, True):
        with pytest.raises((UnsafeDataset, InvalidDataset)):
            read_all(path, allow_numpy=allow_numpy)
        # It does not rest on what the parsing process lacks: this one has every right.
        assert parse_here(path, allow_numpy=allow_numpy)["error"] in ("unsafe_dataset", "invalid_dataset")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "name",
    [
        *(f"global in protocol {n}" for n in range(6)),
        *("stack global in protocol 4", "newobj", "newobj_ex", "obj", "build with slots", "ext1", "ext2", "ext4"),
        *("eval", "os.system", "a dotted name", "numpy's runstring", "as a vector", "reduced in protocol 4"),
    ],
)
def test_code_is_called_unsafe_and_the_message_is_fit_for_clients(tmp_path, name):
    path = tmp_path / NAMES["new"]
    path.write_bytes(payloads.running_code(tmp_path / "canary")[name])
    with pytest.raises(UnsafeDataset) as caught:
        read_all(path)
    assert str(caught.value).isprintable()
    assert str(tmp_path) not in str(caught.value)


def test_nothing_comes_of_a_file_that_turns_hostile_late(tmp_path):
    path = tmp_path / NAMES["new"]
    path.write_bytes(payloads.running_code(tmp_path / "canary")["after a thousand honest rows"])
    with pytest.raises(UnsafeDataset):
        next(read_batches(path))


@pytest.mark.parametrize("name", COSTLY)
def test_what_is_no_dataset_is_refused(tmp_path, name):
    path = tmp_path / NAMES["new"]
    path.write_bytes(costly.costly()[name])
    for allow_numpy in (False, True):
        with pytest.raises((InvalidDataset, UnsafeDataset, DatasetTooLarge)):
            read_all(path, allow_numpy=allow_numpy)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "head", [b"", b"\x80\x04]", costly.HONEST, b"PK\x03\x04"], ids=["zeros", "pickle", "dataset", "zip"]
)
@pytest.mark.parametrize("gigabytes", [3, 5])
def test_gigabytes_of_nothing_are_refused(tmp_path, head, gigabytes):
    path = tmp_path / NAMES["new"]
    costly.write_sparse(path, head, gigabytes * 1024**3)
    with pytest.raises((InvalidDataset, DatasetTooLarge)):
        read_all(path)


def measure_memory(folder: str) -> None:
    """Reads every hostile file and prints how many MiB this process took more at its peak."""
    path = Path(folder, NAMES["new"])
    contents = [*payloads.running_code(Path(folder, "canary")).values(), *costly.costly().values()]
    before = _peak_mib()
    for content in contents:
        path.write_bytes(content)
        with contextlib.suppress(DatasetError):
            read_all(path)
    costly.write_sparse(path, b"PK\x03\x04", 3 * 1024**3)
    with contextlib.suppress(DatasetError):
        read_all(path)
    sys.stdout.write(str(_peak_mib() - before))


def _peak_mib() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def test_no_hostile_file_takes_the_readers_memory(tmp_path):
    assert float(in_a_process("measure_memory", tmp_path)) < MEMORY_MIB
