"""A migration that writes nothing: what would become of the dataset."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.datasets.ahead import ahead
from app.datasets.attempt import READ_AHEAD, Attempt, pictures_of
from app.datasets.copying import Novelty, copy_chunks
from app.datasets.report import MigrationReport
from app.datasets.rows import RowBatch
from app.db.migration_runs import added


@dataclass(slots=True)
class Rehearsal(Attempt):
    """An attempt that only looks."""

    def run(self) -> MigrationReport:
        """Find out what would be migrated. Pictures are looked for, not looked at."""
        self.progress.stage("read", None)
        with ahead(self.batches(), READ_AHEAD) as batches:
            migrated, skipped = self._copy(batches) if self.plan.mode == "copy" else self._reembed(batches)
        self.require_unchanged()
        return self.report(migrated=migrated, skipped=added(skipped, self.unreadable()), seconds=self.watch.seconds)

    def _copy(self, batches: Iterator[RowBatch]) -> tuple[int, dict[str, int]]:
        skipped: dict[str, int] = {}
        migrated = 0
        batches = self.with_vectors(batches)
        novelty = Novelty(self.present_templates())
        for chunk in copy_chunks(batches, after=0, size=self.chunk_rows, novelty=novelty, watch=self.watch):
            migrated += len(chunk.labels)
            skipped = added(skipped, chunk.skipped)
            self.progress.advance(chunk.rows)
        return migrated, skipped

    def _reembed(self, batches: Iterator[RowBatch]) -> tuple[int, dict[str, int]]:
        rows = pictures_of(batches)
        missing = self.missing_pictures(rows)
        return len(rows) - missing, {"picture_missing": missing} if missing else {}
