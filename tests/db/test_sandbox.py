"""Where the server's programs run, and how much of the machine they take."""

from pathlib import Path

import pytest

from app.config import parse_settings
from app.db import server_size
from app.db.sandbox import Account, Sandbox, ServerFolders, _mounted
from app.db.server_size import memory_bytes, server_settings


def folders_below(storage: Path, site: Path) -> ServerFolders:
    return ServerFolders(
        data=storage / "postgres",
        socket=storage / "run" / "postgres",
        run=storage / "run",
        install=site / "package" / "pginstall18",
        libraries=site / "package.libs",
    )


@pytest.mark.parametrize("storage", ["/root/storage", "/mnt/disk/storage", "/srv/storage"])
def test_the_namespace_covers_no_folder_that_it_needs(storage: str) -> None:
    folders = folders_below(Path(storage), Path("/media/checkout/site-packages"))
    sandbox = _mounted(Account(100, 100), folders)
    assert sandbox.base is not None
    assert sandbox.base.is_dir()
    for outside, inside in sandbox.mounts:
        assert not outside.is_relative_to(sandbox.base)
        assert inside.is_relative_to(sandbox.base)
        assert sandbox.inside(outside / "some" / "file") == inside / "some" / "file"
    assert len({inside for _, inside in sandbox.mounts}) == 4


def test_the_libraries_keep_their_place_relative_to_the_programs() -> None:
    folders = folders_below(Path("/root/storage"), Path("/root/site-packages"))
    sandbox = _mounted(Account(100, 100), folders)
    for see in (lambda path: path, sandbox.inside):
        # What the programs have as RUNPATH: $ORIGIN/../../../package.libs
        assert see(folders.install / "bin").parents[2] / "package.libs" == see(folders.libraries)


def test_as_an_ordinary_user_programs_run_as_they_are() -> None:
    sandbox = Sandbox()
    assert sandbox.inside(Path("/a/b")) == Path("/a/b")
    command = sandbox.command(["postgres", "-D", "x"], death_signal="INT")
    assert command[0] == "setpriv"
    assert "--reuid" not in command
    assert command[-3:] == ["postgres", "-D", "x"]


def test_a_control_groups_limit_counts_where_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit, none = tmp_path / "meminfo", tmp_path / "memory.max", tmp_path / "unlimited"
    meminfo.write_text("MemFree: 5 kB\nMemTotal:       8388608 kB\n")
    limit.write_text(f"{2 * 1024**3}\n")
    none.write_text("max\n")
    monkeypatch.setattr(server_size, "_MEMINFO", meminfo)
    monkeypatch.setattr(server_size, "_CGROUP_LIMITS", (none, tmp_path / "missing"))
    assert memory_bytes() == 8 * 1024**3
    monkeypatch.setattr(server_size, "_CGROUP_LIMITS", (limit, none))
    assert memory_bytes() == 2 * 1024**3


@pytest.mark.parametrize(
    ("memory_gb", "shared_mb", "maintenance_mb"), [(0.5, 128, 64), (8, 1024, 512), (512, 4096, 1024)]
)
def test_the_shares_follow_the_machine_within_bounds(
    memory_gb: float, shared_mb: int, maintenance_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_size, "memory_bytes", lambda: int(memory_gb * 1024**3))
    found = server_settings(parse_settings(web_workers=4, db_pool_size=8))
    assert found["shared_buffers"] == f"{shared_mb}MB"
    assert found["maintenance_work_mem"] == f"{maintenance_mb}MB"
    assert int(found["max_connections"]) > 4 * 8


def test_a_container_with_little_shared_memory_can_still_build_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    for available_mb, kind in ((64, "sysv"), (100_000, "posix")):
        monkeypatch.setattr(server_size, "_shared_memory_mb", lambda available_mb=available_mb: available_mb)
        assert server_settings(parse_settings())["dynamic_shared_memory_type"] == kind
