"""Asks both services the same, and the index what an exact search knows: whether a migrated domain answers as its dataset did.

Probes are photos, or templates of the dataset that are held out: one of a person who has others, hidden from both services.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pgvector import Vector
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.config import Settings
from app.datasets.compile import compile_dataset
from app.datasets.compiled import CompiledDataset, load, vectors_path
from app.datasets.plan import Plan
from app.datasets.reembedding import analyze_patiently
from app.db.domains import Gallery, load_gallery
from app.db.partitions import partition_name
from app.db.session import Database, set_local
from app.db.vectors import EXACT_ROWS_SQL, HNSW_ROWS_SQL, SearchOptions, insist_on_index, search
from app.embedder.client import EmbedderClient
from app.errors import DatasetUnavailable, ImageError, InvalidRequest
from app.recognition.matching import Candidate, Decision, decide
from app.vision.faces import Float32Array
from app.vision.packs import Calibration, PackStore

_PHOTOS: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
_MAX_HELD_OUT: Final = 500
_PROBES_AT_ONCE: Final = 16
_EXAMPLES: Final = 10
_TOP_K: Final = 5
# Two distances that differ by no more are the same: float32.
_SAME_DISTANCE: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A vector to ask with: float32, (D,), unit length. `row` is its row of the compiled dataset, where it is held out."""

    name: str
    vector: Float32Array
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """How the two services and the two ways of searching compare.

    Attributes:
        probes: how many were asked with, and `kind`: `photos` or `held out`.
        agreed: how many were answered alike: the same person, or nobody; None where the dataset cannot be asked.
        named: how many of those with a person.
        disagreements: some of the others: the probe, what the dataset and what the database said.
        recall_at_1, recall_at_5: of the index against exact search, at `ef_search`; None without an index.
        note: why something was not compared.
    """

    kind: str
    probes: int
    agreed: int | None
    named: int
    disagreements: list[dict[str, str | None]]
    recall_at_1: float | None
    recall_at_5: float | None
    ef_search: int
    note: str = ""

    @property
    def agreement_percent(self) -> float | None:
        """The share of probes that both answer alike; None where there is none."""
        return 100.0 * self.agreed / self.probes if self.agreed is not None and self.probes else None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "probes": self.probes,
            "agreed": self.agreed,
            "agreement_percent": self.agreement_percent,
            "named": self.named,
            "disagreements": self.disagreements,
            "recall_at_1": self.recall_at_1,
            "recall_at_5": self.recall_at_5,
            "ef_search": self.ef_search,
            "note": self.note,
        }

    def as_text(self) -> str:
        """For people."""
        lines = []
        if self.agreement_percent is not None:
            lines.append(
                f"PKL and pgvector agree on {self.agreed} of {self.probes} probes ({self.kind}):"
                f" {self.agreement_percent:.1f} %; {self.named} of them name a person."
            )
        if self.recall_at_1 is not None and self.recall_at_5 is not None:
            lines.append(
                f"HNSW against exact search: recall@1 {self.recall_at_1:.3f}, recall@5 {self.recall_at_5:.3f}"
                f" (ef {self.ef_search})."
            )
        lines += [
            f"  {item['probe']}: PKL {item['pkl']!r}, pgvector {item['pgvector']!r}" for item in self.disagreements
        ]
        return "\n".join([*lines, *([self.note] if self.note else [])])


def verify_migration(
    settings: Settings,
    database: Database,
    embedder: EmbedderClient,
    packs: PackStore,
    plan: Plan,
    photos: Path | None,
    *,
    allow_numpy: bool = False,
) -> Verification:
    """Compare a migrated domain with its dataset.

    Args:
        photos: folder of pictures, whose every face is a probe; None holds templates of the dataset out.

    Raises:
        InvalidRequest: there are no probes: no face in the photos; or no person with two templates, and no photos.
        UnknownModel, InvalidPack: the domain's pack is not installed.
        ContractMismatch: the pool embeds photos with another pack than the domain's.
        DatasetError, EmbedderError, DatabaseError: as their names say.
    """
    calibration = packs.get(plan.target.model).manifest.calibration
    with tempfile.TemporaryDirectory(dir=settings.storage_dir, prefix=".verify-") as folder:
        dataset = _compiled(plan, Path(folder), allow_numpy=allow_numpy) if plan.mode == "copy" else None
        if photos is not None:
            probes = list(_photo_probes(photos, embedder, settings, plan.target.contract))
        else:
            probes = _held_out(dataset) if dataset is not None else []
        if not probes:
            raise InvalidRequest("There is nothing to verify with: give photos of persons by --probes FOLDER.")
        return _Comparison(settings, database, plan, calibration, probes, dataset).run()


def _compiled(plan: Plan, folder: Path, *, allow_numpy: bool) -> CompiledDataset:
    """The dataset as the PKL service has it, in memory of our own where it is written to."""
    compile_dataset(plan.info.path, folder, contract=plan.target.contract, allow_numpy=allow_numpy)
    found = load(folder)
    if found is None:
        raise DatasetUnavailable("The dataset's searchable form is damaged: is the disk full?")
    vectors = np.load(vectors_path(folder, found.record.token), mmap_mode="c", allow_pickle=False)
    return replace(found, vectors=vectors.view(np.ndarray))


def _photo_probes(folder: Path, embedder: EmbedderClient, settings: Settings, contract: str) -> Iterator[Probe]:
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTOS and path.is_file()):
        try:
            analysis = analyze_patiently(embedder, path.read_bytes(), settings.request_deadline_s, contract)
        except ImageError as error:
            raise InvalidRequest(f"The probe {path.relative_to(folder)} cannot be used: {error}") from error
        for number, face in enumerate(analysis.faces):
            if face.embedding is not None:
                yield Probe(f"{path.relative_to(folder)} face {number}", face.embedding)


def _held_out(dataset: CompiledDataset) -> list[Probe]:
    """One template of each of some persons who have several; the same ones every time."""
    counts = np.diff([*dataset.starts, len(dataset.vectors)])
    choice = np.random.default_rng(0)
    several = np.flatnonzero(counts > 1)
    if len(several) > _MAX_HELD_OUT:
        several = np.sort(choice.choice(several, _MAX_HELD_OUT, replace=False))
    rows = dataset.starts[several] + choice.integers(0, counts[several])
    return [
        Probe(dataset.labels[person], np.array(dataset.vectors[row]), int(row))
        for person, row in zip(several.tolist(), rows.tolist(), strict=True)
    ]


@dataclass(slots=True)
class _Comparison:
    settings: Settings
    database: Database
    plan: Plan
    calibration: Calibration
    probes: Sequence[Probe]
    dataset: CompiledDataset | None
    _disagreements: list[dict[str, str | None]] = field(default_factory=list)

    def run(self) -> Verification:
        """Ask the database in one transaction, which is rolled back: what is held out is only out for us."""
        with self.database.bulk_transaction() as session:
            gallery = load_gallery(session, self.plan.target.domain)
            self._hold_out(session, gallery)
            by_database = self._ask_database(session, gallery)
            recalls = self._recalls(session, gallery) if gallery.index_valid else None
            session.rollback()
        agreed = named = None
        if self.dataset is not None:
            agreed, named = self._compare(self._ask_dataset(self.dataset), by_database)
        return Verification(
            kind="held out" if self.probes[0].row is not None else "photos",
            probes=len(self.probes),
            agreed=agreed,
            named=named or 0,
            disagreements=self._disagreements,
            recall_at_1=recalls and recalls[0],
            recall_at_5=recalls and recalls[1],
            ef_search=self.settings.search_ef,
            note="" if self.dataset else "The dataset's vectors are another model's: it cannot be asked the same.",
        )

    def _hold_out(self, session: Session, gallery: Gallery) -> None:
        """Hide the probes that are templates from both, as long as the transaction lasts."""
        table = partition_name(gallery.domain_id)
        query = text(
            f"DELETE FROM {table} WHERE id = (SELECT t.id FROM {table} AS t JOIN persons AS p ON p.id = t.person_id"  # noqa: S608
            " WHERE p.domain_id = :domain_id AND p.label = :label AND abs(1 + (t.embedding <#> :vector)) < :same LIMIT 1)"
        )
        for probe in self.probes:
            if probe.row is not None and self.dataset is not None:
                self.dataset.vectors[probe.row] = 0.0  # as far away as what has nothing in common
                session.execute(
                    query,
                    {
                        "domain_id": gallery.domain_id,
                        "label": probe.name,
                        "vector": Vector(probe.vector),
                        "same": _SAME_DISTANCE,
                    },
                )

    def _ask_database(self, session: Session, gallery: Gallery) -> list[str | None]:
        options = SearchOptions(
            top_k=_TOP_K,
            threshold=self.calibration.threshold,
            margin=self.calibration.margin,
            exact_max_rows=self.settings.exact_max_rows(gallery.dimension),
            ef_search=self.settings.search_ef,
        )
        names: list[str | None] = []
        for part in self._parts():
            for hits in search(session, gallery, part, options):
                persons = [
                    Candidate(hit.person_id, hit.label, hit.label, hit.min_distance, hit.occurrences, hit.mean_distance)
                    for hit in hits.persons
                ]
                names.append(self._name(persons))
        set_local(session, enable_seqscan="on")
        return names

    def _ask_dataset(self, dataset: CompiledDataset) -> list[str | None]:
        vectors = np.stack([probe.vector for probe in self.probes])
        found = dataset.search(vectors, threshold=self.calibration.threshold, top_k=_TOP_K)
        return [
            self._name(
                [Candidate(None, m.label, m.label, m.min_distance, m.occurrences, m.mean_distance) for m in matches]
            )
            for matches in found
        ]

    def _name(self, candidates: Sequence[Candidate]) -> str | None:
        decision = decide(candidates, threshold=self.calibration.threshold, margin=self.calibration.margin)
        return candidates[0].label if decision is Decision.MATCH else None

    def _compare(self, by_dataset: list[str | None], by_database: list[str | None]) -> tuple[int, int]:
        agreed = named = 0
        for probe, one, other in zip(self.probes, by_dataset, by_database, strict=True):
            agreed += one == other
            named += one == other and one is not None
            if one != other and len(self._disagreements) < _EXAMPLES:
                self._disagreements.append({"probe": probe.name, "pkl": one, "pgvector": other})
        return agreed, named

    def _recalls(self, session: Session, gallery: Gallery) -> tuple[float, float]:
        """Shares of the 1 and of the 5 nearest templates that are among the index's candidates."""
        ones, fives = [], []
        for part in self._parts():
            exact = _nearest(session, gallery, part, EXACT_ROWS_SQL, _TOP_K)
            insist_on_index(session, self.settings.search_ef)
            through_index = _nearest(session, gallery, part, HNSW_ROWS_SQL, self.settings.search_ef)
            set_local(session, enable_seqscan="on")
            for wanted, found in zip(exact, through_index, strict=True):
                ones.append(_recall(wanted[:1], found))
                fives.append(_recall(wanted, found))
        return float(np.mean(ones)), float(np.mean(fives))

    def _parts(self) -> Iterator[Float32Array]:
        for start in range(0, len(self.probes), _PROBES_AT_ONCE):
            yield np.stack([probe.vector for probe in self.probes[start : start + _PROBES_AT_ONCE]])


def _nearest(session: Session, gallery: Gallery, units: Float32Array, rows_sql: str, rows: int) -> list[list[float]]:
    """Distances of the 5 nearest of the templates that were looked at, for each probe, nearest first."""
    query = text(
        "SELECT probe.n, near.d FROM unnest(CAST(:probes AS vector[])) WITH ORDINALITY AS probe (v, n)"  # noqa: S608 - digits
        " CROSS JOIN LATERAL (SELECT d FROM (SELECT 1 + (embedding <#> probe.v) AS d"
        f" FROM {partition_name(gallery.domain_id)} {rows_sql.format(dimension=int(gallery.dimension))}) AS seen"
        " ORDER BY d LIMIT :k) AS near ORDER BY probe.n, near.d"
    )
    found: list[list[float]] = [[] for _ in units]
    for n, distance in session.execute(query, {"probes": [Vector(unit) for unit in units], "rows": rows, "k": _TOP_K}):
        found[n - 1].append(distance)
    return found


def _recall(wanted: list[float], found: list[float]) -> float:
    """The share of the nearest that were found. By distance: of several that are equally near, any will do."""
    if not wanted:
        return 1.0
    farthest = wanted[-1] + _SAME_DISTANCE
    return min(len(wanted), sum(distance <= farthest for distance in found)) / len(wanted)
