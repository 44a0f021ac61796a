"""A domain's templates as a dataset that DeepFace reads: the way back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.datasets.contracts import deepface_model
from app.datasets.deepface import find_dataset, shown
from app.datasets.deepface_export import write_deepface
from app.datasets.labels import export_identity
from app.datasets.names import deepface_file_name, model_and_detector
from app.datasets.rows import DatasetRow
from app.db.domains import Gallery, load_gallery
from app.db.models import FaceEmbedding, Person
from app.db.session import Database
from app.errors import DatasetNotFound, DatasetNotWritten, InvalidRequest, MigrationUnfinished
from app.vision.faces import Box

Form = Literal["pkl", "npz"]

_FORMS: Final[dict[str, Form]] = {".pkl": "pkl", ".npz": "npz"}
# DeepFace's name for faces that somebody else has found.
_DETECTOR: Final = "skip"
_ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    domain: str
    path: Path
    rows: int
    persons: int

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"domain": self.domain, "path": str(self.path), "rows": self.rows, "persons": self.persons}


def export_domain(database: Database, domain: str, path: Path, *, form: Form | None, replace: bool) -> Export:
    """Write all templates of a domain, as they are at one moment: whole, or not at all.

    The vectors are the stored ones, of unit length, bit for bit; a person is named by the label. Imported again, the file gives
    the same set.

    Args:
        domain: name or id.
        path: a folder, with one dataset, which is the one to replace, or with none; or a file whose name says whose vectors it
            holds: nothing in it does.
        form: None takes the file name's, and `pkl` where the file gets its name here.
        replace: write over a file that exists.

    Raises:
        DomainNotFound: no such domain.
        MigrationUnfinished: its first migration has not finished: it has gaps.
        InvalidRequest: the file's name names another model or form.
        AmbiguousDataset: the folder holds several datasets.
        DatasetNotWritten: the file exists, the disk is full, or the folder refuses.
        DatabaseError: as `Database.transaction`; nothing was written.
    """
    with database.bulk_transaction() as session:
        # One moment for the rows and for what is said of them. The snapshot is taken by the next statement that reads.
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        gallery = load_gallery(session, domain)
        if not gallery.complete:
            raise MigrationUnfinished(
                f"The migration into {gallery.name!r} has not finished: the export would have gaps."
            )
        file, chosen = _destination(gallery, path, form)
        if file.exists() and not replace:
            raise DatasetNotWritten(f"{file.name!r} exists already; --force replaces it.")
        labels: set[str] = set()
        written = write_deepface(file, _rows(session, gallery, labels), form=chosen)
    return Export(gallery.name, file, written, len(labels))


def _destination(gallery: Gallery, path: Path, form: Form | None) -> tuple[Path, Form]:
    """The file and its form. A folder with a dataset, such as the PKL service's, keeps one: that file is replaced."""
    model = deepface_model(gallery.contract)
    if path.suffix.lower() not in _FORMS or path.is_dir():
        try:
            path = find_dataset(path)
        except DatasetNotFound:
            path = path / deepface_file_name(model, _DETECTOR, form=form or "pkl")
    own = _FORMS.get(path.suffix.lower())
    if own is None or model_and_detector(path.name)[0] != model or form not in (None, own):
        wanted = deepface_file_name(model, _DETECTOR, form=form or own or "pkl")
        raise InvalidRequest(
            f"{shown(path)!r} is no name for it: a dataset's name says whose vectors it holds, here {wanted!r}."
            " Name such a file, or a folder without a dataset."
        )
    return path, own


def _rows(session: Session, gallery: Gallery, labels: set[str]) -> Iterator[DatasetRow]:
    """Person by person; `labels` gets those that were seen."""
    query = (
        select(Person.label, FaceEmbedding)
        .join(Person, Person.id == FaceEmbedding.person_id)
        .where(FaceEmbedding.domain_id == gallery.domain_id)
        .order_by(Person.label, FaceEmbedding.created_at, FaceEmbedding.id)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    model = deepface_model(gallery.contract)
    for label, template in session.execute(query):
        labels.add(label)
        yield DatasetRow(
            identity=export_identity(label, f"{template.id}.jpg"),
            label=label,
            embedding=template.embedding,
            box=Box(template.box_x, template.box_y, template.box_w, template.box_h),
            model=model,
            detector=_DETECTOR,
        )
        session.expunge(template)
