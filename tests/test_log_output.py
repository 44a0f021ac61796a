"""Where lines go, when, and what becomes of them when their file is moved away or cannot be written."""

import os
import threading
import time
from pathlib import Path

import pytest

from app.log_output import LogOutput


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def output(path: Path):
    made = LogOutput(path)
    yield made
    made.close()


def say(output: LogOutput, text: str, *, at_once: bool = False) -> None:
    output.write(lambda: text, at_once=at_once)


def test_a_line_is_there_at_once_unless_it_is_held(output: LogOutput, path: Path) -> None:
    say(output, "first")
    assert path.read_text() == "first\n"
    output.hold()
    say(output, "second")
    say(output, "third")
    assert path.read_text() == "first\n"
    output.release()
    assert path.read_text() == "first\nsecond\nthird\n"
    say(output, "fourth")
    assert path.read_text().endswith("fourth\n")


def test_what_is_urgent_brings_what_came_before_it(output: LogOutput, path: Path) -> None:
    output.hold()
    say(output, "usual")
    say(output, "broken", at_once=True)
    assert path.read_text() == "usual\nbroken\n"
    say(output, "later")
    assert path.read_text() == "usual\nbroken\n"


def test_nothing_is_held_for_longer_than_a_second(output: LogOutput, path: Path, monkeypatch) -> None:
    output.hold()
    say(output, "early")
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 1.5)
    say(output, "late")
    assert path.read_text() == "early\nlate\n"


def test_a_thread_holds_only_its_own_lines(output: LogOutput, path: Path) -> None:
    output.hold()
    say(output, "held")
    thread = threading.Thread(target=say, args=(output, "of another"))
    thread.start()
    thread.join()
    assert path.read_text() == "of another\n"


def test_a_line_that_cannot_be_made_costs_no_other_and_nobody_anything(output: LogOutput, path: Path) -> None:
    def broken() -> str:
        raise MemoryError

    output.hold()
    say(output, "before")
    output.write(broken, at_once=False)
    say(output, "after")
    output.release()
    output.write(broken, at_once=True)
    told = "facedex: a line of the log could not be made: MemoryError"
    assert path.read_text().splitlines() == ["before", told, "after", told]


def test_to_hold_anew_loses_nothing(output: LogOutput, path: Path) -> None:
    output.hold()
    say(output, "of a request that nobody ended")
    output.hold()
    assert path.read_text() == "of a request that nobody ended\n"


def test_a_file_that_was_moved_away_is_made_again(output: LogOutput, path: Path) -> None:
    say(output, "old")
    path.rename(path.with_suffix(".1"))
    say(output, "new")
    assert path.with_suffix(".1").read_text() == "old\n"
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_threads_that_write_while_it_is_moved_lose_no_line(output: LogOutput, path: Path) -> None:
    moved_often_enough = threading.Event()
    said: list[str] = []

    def write(name: str) -> None:
        number = 0
        while not moved_often_enough.is_set():
            say(output, f"{name}{number}")
            said.append(f"{name}{number}")
            number += 1

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for number in range(20):
        while not path.exists():
            time.sleep(0)
        path.rename(path.with_suffix(f".{number}"))
    moved_often_enough.set()
    for thread in threads:
        thread.join()
    written = [line for file in path.parent.iterdir() for line in file.read_text().splitlines()]
    assert sorted(written) == sorted(said)


def test_what_cannot_be_written_stops_nobody(output: LogOutput, path: Path, capsys) -> None:
    path.unlink()
    path.mkdir()
    say(output, "lost")
    assert "the log cannot be written" in capsys.readouterr().err


def test_a_full_disk_stops_nobody(capsys) -> None:
    output = LogOutput(Path("/dev/full"))
    say(output, "lost")
    output.close()
    assert "the log cannot be written: [Errno 28]" in capsys.readouterr().err


def test_processes_append_to_one_file(output: LogOutput, path: Path) -> None:
    child = os.fork()
    if child == 0:
        say(output, "child")
        os._exit(0)
    os.waitpid(child, 0)
    say(output, "parent")
    assert path.read_text() == "child\nparent\n"


def test_without_a_file_lines_go_to_standard_error(capsys) -> None:
    output = LogOutput(None)
    say(output, "said")
    assert capsys.readouterr().err == "said\n"


def test_after_the_end_nothing_is_written_elsewhere(path: Path) -> None:
    output = LogOutput(path)
    output.close()
    with path.with_suffix(".other").open("wb"):  # gets the number that the log had
        say(output, "late")
    assert path.read_text() == path.with_suffix(".other").read_text() == ""
