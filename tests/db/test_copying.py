"""COPY: what is read back is what was given, column by column."""

from uuid import UUID, uuid4

import numpy as np
from sqlalchemy import select

from app.db.domains import create_domain
from app.db.models import Domain, FaceEmbedding, Person
from app.db.session import Database
from app.db.templates import NewTemplate, copy_templates, random_ids, unit_vectors
from app.vision.faces import Box
from tests.db_server import columns_of, contract, random_units


def test_every_column_arrives_with_and_without_a_picture(database: Database) -> None:
    person = uuid4()
    with database.transaction() as session:
        domain_id = create_domain(session, "people", model="test", contract=contract(5), dimension=5).id
        session.flush()
        session.add(Person(id=person, domain_id=domain_id, label="p", display_name="P"))
    vectors = random_units(6, 5)
    given = [
        NewTemplate(person, vector, None if n % 2 else bytes([n] * 32), Box(-n, n, 2**31 - 1, n), n / 8, 2.0**n)
        for n, vector in enumerate(vectors)
    ]
    with database.bulk_transaction() as session:
        copy_templates(session, domain_id, columns_of(given[::2]))
        copy_templates(session, domain_id, columns_of(given[1::2]))
    with database.transaction() as session:
        assert session.get_one(Domain, domain_id).template_count == 6
        stored = {row.id: row for row in session.scalars(select(FaceEmbedding))}
    for template in given:
        row = stored[template.id]
        assert (row.domain_id, row.person_id, row.image_sha256) == (domain_id, person, template.image_sha256)
        assert (row.box_x, row.box_y, row.box_w, row.box_h) == (
            template.box.x,
            template.box.y,
            template.box.w,
            template.box.h,
        )
        assert (row.score, row.sharpness) == (template.score, template.sharpness)
        assert row.embedding.tobytes() == template.embedding.tobytes()


def test_ids_are_uuids_of_version_4_and_differ() -> None:
    ids = [UUID(bytes=row.tobytes()) for row in random_ids(1000)]
    assert {(id_.version, id_.variant) for id_ in ids} == {(4, "specified in RFC 4122")}
    assert len(set(ids)) == 1000


def test_vectors_of_unit_length_pass_bit_for_bit() -> None:
    vectors = random_units(2000, 128)
    assert unit_vectors(vectors, 128).tobytes() == vectors.tobytes()
    scaled = unit_vectors(vectors * np.float32(1.0005), 128)
    assert unit_vectors(scaled, 128).tobytes() == scaled.tobytes()
