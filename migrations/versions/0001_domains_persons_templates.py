"""Domains, persons, and templates partitioned by domain."""

from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

UPGRADE = """
CREATE TABLE domains (
    id integer GENERATED ALWAYS AS IDENTITY,
    uid uuid NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    model text NOT NULL,
    contract text NOT NULL,
    dimension integer NOT NULL,
    template_count integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT domains_pkey PRIMARY KEY (id),
    CONSTRAINT domains_name_key UNIQUE (name),
    CONSTRAINT domains_uid_key UNIQUE (uid),
    CONSTRAINT domains_dimension_check CHECK (dimension BETWEEN 1 AND 1536),
    CONSTRAINT domains_template_count_check CHECK (template_count >= 0)
);

CREATE TABLE persons (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    domain_id integer NOT NULL,
    label text NOT NULL,
    display_name text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    valid_from timestamptz,
    valid_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT persons_pkey PRIMARY KEY (id),
    CONSTRAINT persons_domain_id_label_key UNIQUE (domain_id, label),
    CONSTRAINT persons_domain_id_id_key UNIQUE (domain_id, id),
    CONSTRAINT persons_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id),
    CONSTRAINT persons_validity_check CHECK (valid_from < valid_until)
);

CREATE TABLE face_embeddings (
    domain_id integer NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    person_id uuid NOT NULL,
    image_sha256 bytea,
    box_x integer NOT NULL,
    box_y integer NOT NULL,
    box_w integer NOT NULL,
    box_h integer NOT NULL,
    score real NOT NULL,
    sharpness real NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    embedding vector NOT NULL,
    CONSTRAINT face_embeddings_pkey PRIMARY KEY (domain_id, id),
    CONSTRAINT face_embeddings_image_key UNIQUE (domain_id, image_sha256, person_id),
    CONSTRAINT face_embeddings_person_fkey FOREIGN KEY (domain_id, person_id)
        REFERENCES persons (domain_id, id) ON DELETE CASCADE
) PARTITION BY LIST (domain_id);

CREATE INDEX face_embeddings_person_idx ON face_embeddings (domain_id, person_id);

-- 512 dimensions are 2,056 bytes: by default they would lie out of line, and an exact scan take eight times as long.
ALTER TABLE face_embeddings ALTER COLUMN embedding SET STORAGE PLAIN;
"""

DOWNGRADE = """
DROP TABLE face_embeddings;
DROP TABLE persons;
DROP TABLE domains;
"""


def upgrade() -> None:
    """Create the tables. Partitions come with their domains (app/db/partitions.py)."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Drop the tables with all their data. The extension stays: others may use it."""
    op.execute(DOWNGRADE)
