"""Persons and domains out of the datasets, wherever they lie, and out of their searchable forms."""

import shutil
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from app.config import Settings
from app.datasets.compile import withdraw
from app.datasets.compiled import read_labels, read_record
from app.datasets.deepface import signature_of
from app.datasets.erase import remove_in_process
from app.datasets.locking import locked_within
from app.datasets.store import DatasetStore
from app.errors import DatasetNotFound, DatasetNotWritten, DatasetUnavailable

# Of the processes that go through a dataset. The largest ones take minutes; one that hangs is not waited for for ever.
_REWRITE_S: Final = 600.0
_REBUILD_S: Final = 600.0


class DatasetForgetting:
    """Writes to datasets, which nothing else does but an export."""

    def __init__(self, settings: Settings, datasets: DatasetStore) -> None:
        self._settings = settings
        self._datasets = datasets

    def concerns(self, domain: str) -> bool:
        """Whether there is a place for the domain's dataset, or what was made from one that is gone."""
        return domain in self._datasets.domains() or self._datasets.folder(domain).exists()

    def names(self, domain: str, label: str) -> bool:
        """Whether the domain's dataset, as it was prepared last, has a person of that label."""
        folder = self._datasets.folder(domain)
        record = read_record(folder)
        return record is not None and label in read_labels(folder, record.token)

    def erase_person(self, domain: str, labels: Collection[str]) -> int:
        """Take a person out of the domain's dataset, and out of its searchable form; any number of times.

        Returns when no process finds them any more, which takes as long as it takes to read the dataset.

        Returns:
            How many rows were taken out.

        Raises:
            DatasetUnavailable: it cannot be read, or be told from another one beside it.
            DatasetNotWritten: it cannot be rewritten, or not in time, or is being rewritten for somebody else; the person may
                be in it still.
        """
        folder, removed = self._datasets.folder(domain), 0
        if not labels:
            return 0
        try:
            # One process at a time rewrites a dataset. The lock outlives the folder, which goes with the dataset.
            with locked_within(folder.with_suffix(".lock"), self._settings.request_deadline_s):
                path = self._datasets.path(domain)
                removed = remove_in_process(
                    path, labels, allow_numpy=self._settings.pkl_allow_numpy, timeout_s=_REWRITE_S
                )
                if removed:
                    self._datasets.rebuild(domain, path, timeout_s=_REBUILD_S)
        except DatasetNotFound:
            shutil.rmtree(folder, ignore_errors=True)
        except DatasetNotWritten:
            raise  # a searchable form without them would only be made again from it
        except DatasetUnavailable:
            withdraw(folder, labels, wait_s=self._settings.request_deadline_s)
            raise
        # Where the rest of the dataset cannot be used, nothing has taken the old version's place.
        withdraw(folder, labels, wait_s=self._settings.request_deadline_s)
        return removed

    def erase_domain(self, domain: str) -> int:
        """Delete the domain's dataset where it lies in the storage folder, and its searchable form.

        Returns:
            How many rows were searchable.

        Raises:
            DatasetNotWritten: it lies elsewhere, or cannot be deleted.
            DatasetUnavailable: it cannot be told from another one beside it.
        """
        folder = self._datasets.folder(domain)
        record = read_record(folder)
        try:
            path = self._datasets.path(domain)
            if domain in self._settings.pkl_datasets:
                raise DatasetNotWritten("The dataset lies outside the storage folder (PKL_DATASETS): delete it there.")
            for file in (signature_of(path), path):
                file.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()  # where nothing else is in it
        except DatasetNotFound:
            pass
        except OSError as error:
            raise DatasetNotWritten(f"The dataset cannot be deleted: {error.strerror}.") from error
        shutil.rmtree(folder, ignore_errors=True)
        return record.rows if record else 0
