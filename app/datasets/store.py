"""The domains' datasets: where they are, and their searchable forms, made when they are missing or out of date."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import structlog

from app.config import PROJECT_ROOT, Settings
from app.datasets.compile import Failure, read_failure
from app.datasets.compiled import CompiledDataset, Source, load, read_record
from app.datasets.deepface import find_dataset, is_dataset, shown
from app.datasets.environment import BARE_ENVIRONMENT
from app.errors import (
    AmbiguousDataset,
    ContractMismatch,
    DatasetError,
    DatasetNotFound,
    DatasetUnavailable,
    FacedexError,
    InvalidName,
)
from app.names import clean_name
from app.vision.packs import PackStore

log = structlog.stdlib.get_logger("facedex.datasets")

_COMPILED: Final = ".compiled"
# A dataset that is being copied into its place changes all the time: it is not read anew for each of its states.
_BETWEEN_BUILDS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """What is known of a domain's dataset: how many rows and persons can be searched now, and what is wrong with it."""

    domain: str
    rows: int
    persons: int
    problem: str | None


@dataclass(slots=True)
class _Build:
    process: subprocess.Popen[bytes]
    started_s: float = field(default_factory=time.monotonic)


class DatasetStore:
    """The datasets of one installation, for one process of it. Starts nothing and maps nothing before it is asked to."""

    def __init__(self, settings: Settings, packs: PackStore) -> None:
        self._settings = settings
        self._packs = packs
        self._root = settings.pkl_dir
        self._loaded: dict[str, CompiledDataset] = {}
        self._builds: dict[str, _Build] = {}
        self._lock = threading.Lock()

    def domains(self) -> list[str]:
        """The domains that have a place for a dataset, sorted; whether one is there, and of use, is another question."""
        return sorted(self._places())

    def has(self, domain: str) -> bool:
        """Whether there is a dataset of that name, usable or not; `domain` as `clean_name` gives it."""
        try:
            self.path(domain)
        except (DatasetNotFound, OSError):
            return False
        except FacedexError:
            return True
        return True

    def open(self, domain: str, *, wait_s: float) -> CompiledDataset:
        """The domain's dataset, to be searched.

        While a changed dataset is prepared, and where it turns out to be broken, or cannot be told from a second one beside
        it, the version from before goes on serving.

        Args:
            domain: its name, as `clean_name` gives it.
            wait_s: how long to wait for a dataset that was never prepared.

        Raises:
            DatasetNotFound: the domain has none.
            DatasetUnavailable: it is still being prepared, or cannot be used.
            ContractMismatch: it is another model's than the active pack's.
        """
        until_s = time.monotonic() + wait_s
        while True:
            try:
                path = self.path(domain)
                source = Source.of(path)
            except OSError as error:
                raise DatasetNotFound(f"There is no dataset of domain {domain!r}.") from error
            except DatasetUnavailable:
                if (found := self._newest(domain, None)) is None:
                    raise
                return found
            found = self._newest(domain, source)
            if found is not None and found.record.source == source:
                self._reap(domain)
                return found
            failure = self._failure(domain, source)
            if failure is None:
                self._build(domain, path)
            if found is not None:
                return found
            if failure is not None:
                raise _error_of(domain, failure)
            self._wait(domain, until_s)

    def prepare(self) -> None:
        """Bring every dataset's searchable form up to date, and remove those of datasets that are gone."""
        kept = {self.folder(domain).name for domain in self._places()}
        for folder in _entries(self._root / _COMPILED):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        for domain in self.domains():
            try:
                self._prepare_one(domain)
            except FacedexError as error:
                log.error(f"[DATASETS] {error}")

    def rebuild(self, domain: str, path: Path, *, timeout_s: float) -> None:
        """Make the searchable form of the dataset at `path` anew; returns when it is there, or is not made in time."""
        process = self._build(domain, path, anew=True).process
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reap(domain)

    def report(self) -> list[DatasetStatus]:
        """The state of every dataset; nothing is started."""
        return [status for domain in self.domains() if (status := self._status(domain)) is not None]

    def misplaced(self) -> list[str]:
        """What will never be found, for the operator: places without a dataset, and datasets in no domain's folder."""
        problems = [
            f"{shown(file)} lies in no domain's folder."
            for file in _entries(self._root, folders=False)
            if is_dataset(file)
        ]
        for domain in self.domains():
            try:
                self.path(domain)
            except DatasetNotFound as error:
                problems.append(f"Domain {domain!r}: {error}")
            except FacedexError:  # in `report`
                pass
        return problems

    def _prepare_one(self, domain: str) -> None:
        path = self.path(domain)
        record = read_record(self.folder(domain))
        if record is None or record.source != Source.of(path):
            self._build(domain, path).process.wait()
        self.open(domain, wait_s=0)

    def _status(self, domain: str) -> DatasetStatus | None:
        record = read_record(self.folder(domain))
        rows, persons = (record.rows, record.persons) if record else (0, 0)
        try:
            source = Source.of(self.path(domain))
        except (DatasetNotFound, OSError):
            return None
        except FacedexError as error:
            return DatasetStatus(domain, rows, persons, str(error))
        if record is not None and record.source == source:
            return DatasetStatus(domain, rows, persons, None)
        failure = self._failure(domain, source)
        problem = (
            str(_error_of(domain, failure)) if failure else f"The dataset of domain {domain!r} is not prepared yet."
        )
        return DatasetStatus(domain, rows, persons, problem)

    def _places(self) -> dict[str, list[Path]]:
        """Per domain, where its dataset may be. A name never becomes part of a path: names of folders are compared with it."""
        places: dict[str, list[Path]] = {}
        for folder in _entries(self._root):
            if not folder.name.startswith("."):
                places.setdefault(_name_of(folder.name), []).append(folder)
        for name, path in self._settings.pkl_datasets.items():
            places[_cleaned(name)] = [path]
        places.pop("", None)
        return places

    def path(self, domain: str) -> Path:
        """The file of the domain's dataset.

        Raises:
            DatasetNotFound: it has none.
            DatasetUnavailable: it cannot be told which of several it is.
        """
        places = self._places().get(domain, [])
        if not places:
            raise DatasetNotFound(f"There is no dataset of domain {domain!r}.")
        try:
            if len(places) > 1:
                raise AmbiguousDataset(f"{len(places)} folders have this name.")
            return find_dataset(places[0])
        except DatasetNotFound:
            raise
        except DatasetError as error:
            raise DatasetUnavailable(f"The dataset of domain {domain!r} cannot be used: {error}") from error

    def folder(self, domain: str) -> Path:
        """Where the searchable form of the domain's dataset is kept."""
        return self._root / _COMPILED / hashlib.sha256(domain.encode()).hexdigest()[:32]

    def _newest(self, domain: str, source: Source | None) -> CompiledDataset | None:
        """The version that is mapped, or a newer one where there is; without looking for one where it is that of `source`."""
        loaded = self._loaded.get(domain)
        if loaded is not None and loaded.record.source == source:
            return loaded
        folder = self.folder(domain)
        record = read_record(folder)
        if record is None:  # it was withdrawn: somebody in it was erased
            self._loaded.pop(domain, None)
            return None
        if loaded is None or record.token != loaded.record.token:
            loaded = load(folder) or loaded
        else:
            loaded = replace(loaded, record=record)
        if loaded is not None:
            self._loaded[domain] = loaded
        return loaded

    def _failure(self, domain: str, source: Source) -> Failure | None:
        """Why the dataset, as it is now, cannot be used with the active pack; None where that was not tried yet."""
        failure = read_failure(self.folder(domain))
        if failure is None or failure.source != source or failure.allow_numpy != self._settings.pkl_allow_numpy:
            return None
        return failure if failure.contract == self._contract() else None

    def _build(self, domain: str, path: Path, *, anew: bool = False) -> _Build:
        """The process that prepares the dataset: the one that runs, or ran a moment ago, or a new one.

        Args:
            anew: in any case a new one, which takes its turn after those that run.
        """
        with self._lock:
            build = None if anew else self._builds.get(domain)
            if build is not None and (
                build.process.poll() is None or time.monotonic() - build.started_s < _BETWEEN_BUILDS_S
            ):
                return build
            log.info("[DATASETS] Preparing a dataset", domain=domain)
            argv = [sys.executable, "-m", "app.datasets.compile"]
            argv += ["--allow-numpy"] if self._settings.pkl_allow_numpy else []
            argv += ["--", str(path), str(self.folder(domain)), self._contract()]
            process = subprocess.Popen(
                argv,
                cwd=PROJECT_ROOT,
                env=BARE_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
            )
            self._builds[domain] = build = _Build(process)
            return build

    def _reap(self, domain: str) -> None:
        """Forget a process that has done its work, which the kernel else keeps as a zombie."""
        build = self._builds.get(domain)
        if build is not None and build.process.poll() is not None:
            self._builds.pop(domain, None)

    def _wait(self, domain: str, until_s: float) -> None:
        """Wait for the process that prepares the dataset.

        Raises:
            DatasetUnavailable: it takes longer than that, or has just ended without a result.
        """
        build = self._builds.get(domain)
        if build is None:  # another thread found the result
            return
        process = build.process
        had_ended = process.poll() is not None
        try:
            process.wait(max(0.0, until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise DatasetUnavailable(f"The dataset of domain {domain!r} is still being prepared.") from None
        if had_ended:
            raise DatasetUnavailable(f"The dataset of domain {domain!r} could not be prepared; the log says why.")

    def _contract(self) -> str:
        return self._packs.active(self._settings.face_model).manifest.contract.id


def _entries(folder: Path, *, folders: bool = True) -> list[Path]:
    """The folders in a folder, or all else in it; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() == folders)
    except OSError:
        return []


@lru_cache(maxsize=4096)
def _name_of(folder: str) -> str:
    """The domain whose datasets lie in a folder of that name, `a/b` as `a%2Fb`; empty where there can be none."""
    return _cleaned(unquote(folder))


def _cleaned(name: str) -> str:
    try:
        return clean_name(name, "domain")
    except InvalidName:
        return ""


def _error_of(domain: str, failure: Failure) -> FacedexError:
    if failure.code == ContractMismatch.code:
        return ContractMismatch(f"Domain {domain!r}: {failure.message}")
    return DatasetUnavailable(f"The dataset of domain {domain!r} cannot be used: {failure.message}")
