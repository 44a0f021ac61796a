"""Domain objects as the JSON that `schemas.py` describes."""

import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

from flask import g

from app.db.migration_runs import RunStatus
from app.db.references import PhotoCounts, PhotoInfo
from app.enrolment.directory import ListedPerson
from app.enrolment.domains import DomainInfo, DomainStatus
from app.enrolment.duplicates import DuplicatePair
from app.enrolment.faces import EnrolledFace, FileOutcome
from app.enrolment.lookup import PersonInfo, PersonRef
from app.enrolment.outliers import Outlier
from app.enrolment.rejections import RejectionInfo
from app.enrolment.resemblance import Resemblance
from app.recognition.answer import box_to_json


def dump_domain(info: DomainInfo) -> dict[str, Any]:
    """`DomainOut`."""
    return {
        "id": str(info.id),
        "name": info.name,
        "embeddings": info.embeddings,
        "model": {"name": info.model, "contract": info.contract, "dimension": info.dimension},
        "created_at": info.created_at.isoformat(),
    }


def dump_report(status: DomainStatus) -> dict[str, Any]:
    """`DomainReport`."""
    index = status.index
    return dump_domain(status.info) | {
        "persons": status.persons,
        "reference_photos": dump_photo_counts(status.reference_photos),
        "index": {
            "name": index.name,
            "state": "valid" if index.valid else "invalid" if index.exists else "missing",
            "size_bytes": index.size_bytes,
            "table_bytes": index.table_bytes,
            "rows": index.rows,
            "search": status.search,
        },
        "complete": status.complete,
        "migrated_share": round(status.migrated_share, 4),
        "migration": status.migration and dump_run(status.migration),
        "licence": status.licence and {"name": status.licence.name, "non_commercial": status.licence.non_commercial},
    }


def dump_run(run: RunStatus) -> dict[str, Any]:
    """`MigrationOut`."""
    return {
        "dataset": run.source,
        "mode": run.mode,
        "state": run.state,
        # Until the end it is about so many: pictures that are embedded anew may hold several rows.
        "rows": None if run.rows_total is None else max(run.rows_total, run.rows_done),
        "rows_done": run.rows_done,
        "migrated": run.rows_migrated,
        "skipped": run.skipped,
        "seconds": {stage: round(seconds, 3) for stage, seconds in run.seconds.items()},
        "error": run.error,
        "started_at": run.started_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "finished_at": run.finished_at and run.finished_at.isoformat(),
    }


def dump_person(info: PersonInfo) -> dict[str, Any]:
    """`PersonOut`."""
    return {
        "id": str(info.id),
        "label": info.label,
        "display_name": info.display_name,
        "external_id": info.external_id,
        "valid_from": info.valid_from and info.valid_from.isoformat(),
        "valid_until": info.valid_until and info.valid_until.isoformat(),
        "valid": info.valid,
        "metadata": info.metadata,
        "faces": info.faces,
        "reference_photos": dump_photo_counts(info.reference_photos),
        "created_at": info.created_at.isoformat(),
        "updated_at": info.updated_at.isoformat(),
    }


def dump_listed(person: ListedPerson) -> dict[str, Any]:
    """`ListedPerson`."""
    return dump_person(person.info) | {"quality": person.quality, "has_image": person.has_image}


def dump_photo_counts(counts: PhotoCounts) -> dict[str, int]:
    """`PhotoCounts`."""
    return {"waiting": counts.waiting, "extracted": counts.extracted, "failed": counts.failed}


def dump_photo(photo: PhotoInfo) -> dict[str, Any]:
    """`ReferencePhotoOut`."""
    return {
        "id": str(photo.id),
        "state": photo.state,
        "image_sha256": photo.image_sha256,
        "strategy": photo.strategy,
        "face_id": photo.face_id and str(photo.face_id),
        "warnings": list(photo.warnings),
        "error": photo.error_code and {"code": photo.error_code, "detail": photo.error_message},
        "job_id": photo.job_id and str(photo.job_id),
        "attempts": photo.attempts,
        "created_at": photo.created_at.isoformat(),
        "tried_at": photo.tried_at and photo.tried_at.isoformat(),
    }


def dump_face(face: EnrolledFace) -> dict[str, Any]:
    """`EnrolledFace`."""
    return {
        "id": str(face.id),
        "box": box_to_json(face.box),
        "detection_score": round(face.score, 4),
        "sharpness": round(face.sharpness, 1),
        "image_sha256": face.image_sha256,
        "has_image": face.has_image,
        "quality": face.grade.value,
        "created_at": face.created_at.isoformat(),
    }


def dump_rejection(info: RejectionInfo) -> dict[str, Any]:
    """`RejectionOut`."""
    return {
        "id": str(info.id),
        "face": info.face,
        "image_sha256": info.image_sha256,
        "actual": info.actual and dump_ref(info.actual),
        "created_by": info.created_by,
        "created_at": info.created_at.isoformat(),
    }


def dump_pair(pair: DuplicatePair, pictured: Collection[UUID]) -> dict[str, Any]:
    """`DuplicatePair`; `pictured` are those of whom a picture was kept."""
    persons = [dump_ref(person) | {"has_image": person.id in pictured} for person in (pair.first, pair.second)]
    return {"persons": persons, "distance": round(pair.distance, 6)}


def dump_outlier(outlier: Outlier) -> dict[str, Any]:
    """`OutlierOut`."""
    resembles = None
    if outlier.resembles is not None and outlier.resembles_distance is not None:
        resembles = {"person": dump_ref(outlier.resembles), "distance": round(outlier.resembles_distance, 6)}
    return {
        "person": dump_ref(outlier.person),
        "face_id": str(outlier.face_id),
        "has_image": outlier.has_image,
        "distance": round(outlier.distance, 6),
        "faces": outlier.templates,
        "resembles": resembles,
    }


def dump_outcome(outcome: FileOutcome) -> dict[str, Any]:
    """`FileResult`."""
    if outcome.face is not None:
        warnings = [_dump_resemblance(warning) for warning in outcome.face.warnings]
        return {"file": outcome.file, "status": "enrolled", "face": dump_face(outcome.face), "warnings": warnings}
    return {
        "file": outcome.file,
        "status": "rejected" if outcome.rejected else "failed",
        "code": outcome.error.code if outcome.error else None,
        "detail": str(outcome.error),
    }


def _dump_resemblance(warning: Resemblance) -> dict[str, Any]:
    """`ConflictWarning`."""
    return {
        "code": warning.code.value,
        "person": dump_ref(warning.person),
        "distance": round(warning.distance, 6),
    }


def dump_ref(person: PersonRef) -> dict[str, str]:
    """`CandidatePerson`."""
    return {"id": str(person.id), "label": person.label, "name": person.display_name}


def dump_request() -> dict[str, Any]:
    """What every answer about pictures says of its request."""
    return {"elapsed_time": round(time.monotonic() - g.started_s, 4), "request_id": g.request_id}
