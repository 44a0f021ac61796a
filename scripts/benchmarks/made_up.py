"""Galleries made up: identities that have nothing in common, and templates around them; and their way into a domain.

An identity is a random direction. A template, and a probe, is an identity with a random vector of a certain length added,
scaled to unit length. With 0.6 for templates and probes, a person's own are at a cosine distance of 0.26 from each other, as
in photos of one person by an ArcFace model; strangers are at about 1. Photos of real people have more in common than that:
directions that have nothing in common are the worst case for HNSW, which finds its way by neighbours.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import text

from app.db.copying import TemplateBatch
from app.db.domains import Gallery, create_domain, load_gallery, lock_domain
from app.db.partitions import build_index, drop_index
from app.db.session import Database
from app.db.templates import copy_templates, random_ids
from app.vision.faces import Float32Array

NOISE: Final = 0.6
TEMPLATES_A_PERSON: Final = 9
_ROWS_AT_ONCE: Final = 25_000


@dataclass(frozen=True, slots=True, eq=False)
class MadeUp:
    """A gallery.

    Attributes:
        identities: float32, (P, D), unit length.
        owners: int64, (N,), in rising order: whose each template is.
        seed: of the templates, which are made as they are needed: a million of them take 2 GB.
    """

    identities: Float32Array
    owners: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return int(self.identities.shape[1])

    def templates(self, start: int, end: int) -> Float32Array:
        """Of these rows: float32, (end - start, D); `start` is a multiple of 25,000, so that they are always the same."""
        assert start % _ROWS_AT_ONCE == 0
        rows = [
            around(self.identities[self.owners[at : min(at + _ROWS_AT_ONCE, end)]], NOISE, self.seed + 1 + at)
            for at in range(start, end, _ROWS_AT_ONCE)
        ]
        return np.concatenate(rows)


def clustered(rows: int, *, dimension: int, seed: int = 0) -> MadeUp:
    """Nine templates a person."""
    persons = -(-rows // TEMPLATES_A_PERSON)
    return MadeUp(units(persons, dimension, seed), np.arange(rows) // TEMPLATES_A_PERSON, seed)


def one_each(rows: int, *, dimension: int, seed: int = 0) -> MadeUp:
    """One template a person."""
    return MadeUp(units(rows, dimension, seed), np.arange(rows), seed)


def units(count: int, dimension: int, seed: int) -> Float32Array:
    """Random directions: float32, (count, D)."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def around(vectors: Float32Array, noise: float, seed: int) -> Float32Array:
    """Each vector with a random one of length `noise` added, at unit length."""
    noisy = vectors + np.float32(noise) * units(len(vectors), vectors.shape[1], seed)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    return noisy


def make_domain(database: Database, name: str, dimension: int) -> None:
    """An empty domain of vectors that no model has made."""
    with database.transaction() as session:
        create_domain(session, name, model="made-up", contract=f"made-up:{dimension}:0", dimension=dimension)


def store(database: Database, domain: str, gallery: MadeUp) -> Gallery:
    """Load it into a domain as a migration would: without the index, which is built at the end."""
    with database.transaction() as session:
        found = load_gallery(session, domain)
    with database.bulk_transaction() as session:
        lock_domain(session, found.domain_id)
        drop_index(session, found.domain_id)
        persons = random_ids(len(gallery.identities))
        session.execute(
            text(
                "INSERT INTO persons (domain_id, id, label, display_name)"
                " SELECT :domain_id, CAST(encode(substr(:ids, CAST(16 * n + 1 AS integer), 16), 'hex') AS uuid),"
                " 'made up ' || n, 'made up ' || n FROM generate_series(0, :last) AS n"
            ),
            {"domain_id": found.domain_id, "ids": persons.tobytes(), "last": len(persons) - 1},
        )
        for start in range(0, len(gallery), _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, len(gallery))
            copy_templates(session, found.domain_id, _batch(gallery, persons, start, end))
    with database.maintenance() as connection:
        build_index(connection, found.domain_id, gallery.dimension, writers_wait=True)
    with database.transaction() as session:
        return load_gallery(session, domain)


def label(person: int) -> str:
    """Of that person of a gallery that was stored."""
    return f"made up {person}"


def _batch(gallery: MadeUp, persons: np.ndarray, start: int, end: int) -> TemplateBatch:
    count = end - start
    return TemplateBatch(
        ids=random_ids(count),
        person_ids=persons[gallery.owners[start:end]],
        embeddings=gallery.templates(start, end),
        image_sha256=None,
        boxes=np.tile(np.array([10, 20, 90, 110], np.int32), (count, 1)),
        scores=np.zeros(count, np.float32),
        sharpness=np.zeros(count, np.float32),
    )
