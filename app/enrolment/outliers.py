"""Templates that are far from the other templates of their person: probably somebody else's, or of a bad picture.

A template is one where the median of its cosine distances to its person's others, of an even number of them the lower one, is
more than `FAR_SHARE` of the model pack's threshold. As long as most of the templates are the person's, half of the others of
each of these are too. Of a person with two templates that are so far apart nobody can tell which is the wrong one, and both
are listed.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from app.config import Settings
from app.db.domains import Gallery, load_gallery
from app.db.neighbours import nearest_other, templates_of
from app.db.session import Database
from app.enrolment.examining import names_of, next_persons
from app.enrolment.images import ImageStore
from app.enrolment.lookup import PersonRef, find_domain
from app.vision.faces import Float32Array
from app.vision.packs import PackStore

FAR_SHARE: Final = 1.25
"""In shares of the pack's threshold; measured in docs/decisions/0024."""

# What a page costs is bounded by the templates that are read, and by the searches for whom an outlier resembles.
_TEMPLATES_PER_PAGE: Final = 2_000
_TEMPLATES_PER_PERSON: Final = 100
_OUTLIERS_PER_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Outlier:
    """A template that is far from the others of its person.

    Attributes:
        distance: the lower median of the cosine distances (0 to 2) to the person's others.
        templates: how many of the person's were compared, this one included.
        resembles: who else has a template within the pack's threshold of it, the nearest, and
        resembles_distance: how near that one is.
        has_image: whether its picture was kept.
    """

    person: PersonRef
    face_id: UUID
    distance: float
    templates: int
    resembles: PersonRef | None
    resembles_distance: float | None
    has_image: bool


@dataclass(frozen=True, slots=True)
class OutlierPage:
    """What was found for some persons.

    Attributes:
        outliers: farthest first.
        examined: how many persons were looked at.
        truncated: there are more than are shown.
        threshold: the largest distance of a template that is none.
        next_cursor: None where all persons have been examined.
    """

    outliers: list[Outlier]
    examined: int
    truncated: bool
    threshold: float
    next_cursor: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Far:
    person_id: UUID
    face_id: UUID
    distance: float
    templates: int
    embedding: Float32Array


class OutlierService:
    """Looks for templates that are not where they belong."""

    def __init__(self, settings: Settings, database: Database, packs: PackStore, images: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._packs = packs
        self._images = images

    def find(self, domain: str, *, limit: int, cursor: str | None) -> OutlierPage:
        """Compare the templates of at most `limit` persons, each with its person's others; of fewer where they have many.

        Of a person with more than 100 templates the newest are compared.

        Raises:
            DomainNotFound: no such domain.
            InvalidRequest: the cursor is not one of ours.
            UnknownModel: the domain's model pack is not installed.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            domain_uid, gallery = found.uid, load_gallery(session, found.name)
            match_threshold = self._packs.get(gallery.model).manifest.calibration.threshold
            bound = FAR_SHARE * match_threshold
            persons, next_cursor = next_persons(
                session, gallery, cursor, limit=limit, budget=_TEMPLATES_PER_PAGE, templates=_TEMPLATES_PER_PERSON
            )
            far = _far_ones(session, gallery, persons, bound)
            outliers = self._told(session, gallery, domain_uid, far[:_OUTLIERS_PER_PAGE], match_threshold)
        return OutlierPage(outliers, len(persons), len(far) > _OUTLIERS_PER_PAGE, bound, next_cursor)

    def _told(
        self, session: Session, gallery: Gallery, domain_uid: UUID, far: list[_Far], match_threshold: float
    ) -> list[Outlier]:
        near = {}
        for one in far:
            other = nearest_other(
                session,
                gallery,
                one.person_id,
                one.embedding,
                exact_max_rows=self._settings.exact_max_rows(gallery.dimension),
                ef_search=self._settings.search_ef,
            )
            if other is not None and other.distance <= match_threshold:
                near[one.face_id] = other
        wanted = {one.person_id for one in far} | {other.person_id for other in near.values()}
        names = names_of(session, gallery.domain_id, wanted)
        told = []
        for one in far:
            if one.person_id not in names:  # deleted meanwhile
                continue
            other = near.get(one.face_id)
            resembles = names.get(other.person_id) if other else None
            told.append(
                Outlier(
                    person=names[one.person_id],
                    face_id=one.face_id,
                    distance=one.distance,
                    templates=one.templates,
                    resembles=resembles,
                    resembles_distance=other.distance if other and resembles else None,
                    has_image=self._images.find(domain_uid, one.person_id, one.face_id) is not None,
                )
            )
        return told


def median_distances(embeddings: Float32Array) -> Float32Array:
    """How far each template is from the others.

    Args:
        embeddings: float32, (N, D), unit length, N >= 2.

    Returns:
        float32, (N,): the lower median of the cosine distances (0 to 2) to the other N - 1.
    """
    distances = 1.0 - embeddings @ embeddings.T
    others = distances[~np.eye(len(embeddings), dtype=bool)].reshape(len(embeddings), -1)
    middle = (others.shape[1] - 1) // 2
    return np.asarray(np.clip(np.partition(others, middle, axis=1)[:, middle], 0.0, 2.0), np.float32)


def _far_ones(session: Session, gallery: Gallery, persons: list[UUID], bound: float) -> list[_Far]:
    """Farthest first."""
    far: list[_Far] = []
    owned = templates_of(session, gallery, persons, templates=_TEMPLATES_PER_PERSON)
    for person_id, (faces, embeddings) in owned.items():
        if len(faces) < 2:
            continue
        distances = median_distances(embeddings)
        for n in np.flatnonzero(distances > bound):
            far.append(_Far(person_id, faces[n], float(distances[n]), len(faces), embeddings[n]))
    return sorted(far, key=lambda one: (-one.distance, one.face_id))
