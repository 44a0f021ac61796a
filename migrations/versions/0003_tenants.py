"""Tenants kept apart by the database itself; keys, audit, idempotency, feedback on matches, tombstones.

Every transaction becomes the role `facedex_app`, which owns nothing, and says in `facedex.domains` which domains it may see
(`app/db/session.py`, `app/tenancy.py`). Where nothing was said, nothing is seen.
"""

from alembic import op
from sqlalchemy import text

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

FUNCTIONS = """
CREATE FUNCTION sees_everything() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('facedex.domains', true), '') = '*';

CREATE FUNCTION visible_domains() RETURNS integer[] LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN sees_everything() THEN '{}'::integer[]
        ELSE string_to_array(coalesce(current_setting('facedex.domains', true), ''), ',')::integer[] END;

CREATE FUNCTION sees_domain(domain integer) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sees_everything() OR coalesce(domain = ANY (visible_domains()), false);

CREATE FUNCTION acting_client() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('facedex.client', true), '');
"""

TABLES = """
ALTER TABLE persons ADD COLUMN external_id text;
-- What datasets may still call them.
ALTER TABLE persons ADD COLUMN former_labels text[] NOT NULL DEFAULT '{}';
ALTER TABLE persons ADD COLUMN former_ids uuid[] NOT NULL DEFAULT '{}';
ALTER TABLE persons ADD CONSTRAINT persons_domain_id_external_id_key UNIQUE (domain_id, external_id);
ALTER TABLE persons ADD CONSTRAINT persons_metadata_check
    CHECK (jsonb_typeof(metadata) = 'object' AND octet_length(metadata::text) <= 16384);
-- Who is not valid at all times: a search has to leave them out, and hardly any domain has many.
CREATE INDEX persons_validity_idx ON persons (domain_id) WHERE valid_from IS NOT NULL OR valid_until IS NOT NULL;

-- Statistics are samples of the values: names and vectors would lie in a second place, which no erasure reaches.
ALTER TABLE persons ALTER COLUMN label SET STATISTICS 0;
ALTER TABLE persons ALTER COLUMN display_name SET STATISTICS 0;
ALTER TABLE persons ALTER COLUMN external_id SET STATISTICS 0;
ALTER TABLE persons ALTER COLUMN former_labels SET STATISTICS 0;
ALTER TABLE persons ALTER COLUMN metadata SET STATISTICS 0;
ALTER TABLE face_embeddings ALTER COLUMN embedding SET STATISTICS 0;

CREATE TABLE face_rejections (
    domain_id integer NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    person_id uuid NOT NULL,
    actual_person_id uuid,
    image_sha256 bytea NOT NULL,
    face integer NOT NULL DEFAULT 0,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    embedding vector NOT NULL,
    CONSTRAINT face_rejections_pkey PRIMARY KEY (domain_id, id),
    CONSTRAINT face_rejections_image_key UNIQUE (domain_id, person_id, image_sha256, face),
    CONSTRAINT face_rejections_person_fkey FOREIGN KEY (domain_id, person_id)
        REFERENCES persons (domain_id, id) ON DELETE CASCADE,
    CONSTRAINT face_rejections_actual_person_fkey FOREIGN KEY (domain_id, actual_person_id)
        REFERENCES persons (domain_id, id) ON DELETE CASCADE,
    CONSTRAINT face_rejections_persons_check CHECK (person_id <> actual_person_id)
);
CREATE INDEX face_rejections_actual_person_idx ON face_rejections (domain_id, actual_person_id);
ALTER TABLE face_rejections ALTER COLUMN embedding SET STORAGE PLAIN;
ALTER TABLE face_rejections ALTER COLUMN embedding SET STATISTICS 0;

CREATE TABLE gallery_tombstones (
    domain_id integer NOT NULL,
    person_id uuid NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT gallery_tombstones_pkey PRIMARY KEY (domain_id, person_id),
    CONSTRAINT gallery_tombstones_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE
);

-- Receipts, and what is left to do of an erasure. The domain may be gone: no foreign key.
CREATE TABLE erasures (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    domain_id integer,
    domain_uid uuid,
    domain_name text NOT NULL,
    person_id uuid,
    former_ids uuid[] NOT NULL DEFAULT '{}',
    labels text[] NOT NULL DEFAULT '{}',
    requested_by text NOT NULL,
    request_id text,
    claim_sha256 bytea,
    counts jsonb NOT NULL DEFAULT '{}',
    pending text[] NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT erasures_pkey PRIMARY KEY (id),
    CONSTRAINT erasures_finished_check CHECK (finished_at IS NULL OR cardinality(labels || pending) = 0)
);
CREATE INDEX erasures_unfinished_idx ON erasures (erased_at) WHERE finished_at IS NULL;
CREATE INDEX erasures_claim_idx ON erasures (claim_sha256) WHERE claim_sha256 IS NOT NULL;
ALTER TABLE erasures ALTER COLUMN labels SET STATISTICS 0;

CREATE TABLE api_keys (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    prefix text NOT NULL,
    digest bytea NOT NULL,
    previous_prefix text,
    previous_digest bytea,
    previous_until timestamptz,
    name text NOT NULL,
    scopes text[] NOT NULL,
    every_domain boolean NOT NULL DEFAULT false,
    domains text[] NOT NULL DEFAULT '{}',
    rate_per_minute integer,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_prefix_key UNIQUE (prefix),
    CONSTRAINT api_keys_previous_prefix_key UNIQUE (previous_prefix),
    CONSTRAINT api_keys_previous_check CHECK (num_nulls(previous_prefix, previous_digest, previous_until) IN (0, 3)),
    CONSTRAINT api_keys_digest_check CHECK (octet_length(digest) = 32),
    CONSTRAINT api_keys_rate_per_minute_check CHECK (rate_per_minute > 0),
    CONSTRAINT api_keys_domains_check CHECK (NOT (every_domain AND cardinality(domains) > 0))
);

-- A domain's events outlive the domain: no foreign key. A null domain stands for the installation.
CREATE TABLE audit_chains (
    id integer GENERATED ALWAYS AS IDENTITY,
    domain_id integer,
    domain_uid uuid,
    head_seq bigint NOT NULL DEFAULT 0,
    head_hash bytea NOT NULL,
    pruned_seq bigint NOT NULL DEFAULT 0,
    pruned_hash bytea NOT NULL,
    pruned_on date,
    CONSTRAINT audit_chains_pkey PRIMARY KEY (id),
    CONSTRAINT audit_chains_domain_id_key UNIQUE NULLS NOT DISTINCT (domain_id),
    CONSTRAINT audit_chains_seq_check CHECK (pruned_seq BETWEEN 0 AND head_seq)
);

CREATE TABLE audit_events (
    chain_id integer NOT NULL,
    seq bigint NOT NULL,
    domain_id integer,
    at timestamptz NOT NULL,
    body text NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_events_pkey PRIMARY KEY (chain_id, seq),
    CONSTRAINT audit_events_chain_id_fkey FOREIGN KEY (chain_id) REFERENCES audit_chains (id)
);
CREATE INDEX audit_events_at_idx ON audit_events (chain_id, at);
INSERT INTO audit_chains (domain_id, domain_uid, head_hash, pruned_hash)
    SELECT id, uid, decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex') FROM domains;

CREATE TABLE idempotent_requests (
    client text NOT NULL,
    key text NOT NULL,
    domain_id integer,
    fingerprint bytea NOT NULL,
    status integer,
    headers jsonb,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotent_requests_pkey PRIMARY KEY (client, key),
    CONSTRAINT idempotent_requests_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE
);
CREATE INDEX idempotent_requests_created_at_idx ON idempotent_requests (created_at);
CREATE INDEX idempotent_requests_domain_id_idx ON idempotent_requests (domain_id);
ALTER TABLE idempotent_requests ALTER COLUMN headers SET STATISTICS 0;
ALTER TABLE idempotent_requests ALTER COLUMN body SET STATISTICS 0;

-- Which template each picture of an unfinished enrolment became, so that it can be taken up again.
CREATE TABLE idempotent_faces (
    client text NOT NULL,
    key text NOT NULL,
    image_sha256 bytea NOT NULL,
    domain_id integer NOT NULL,
    face_id uuid NOT NULL,
    CONSTRAINT idempotent_faces_pkey PRIMARY KEY (client, key, image_sha256),
    CONSTRAINT idempotent_faces_request_fkey FOREIGN KEY (client, key)
        REFERENCES idempotent_requests (client, key) ON DELETE CASCADE
);
"""

# Table → the condition under which a row is seen and may be written. What does not depend on the row stands in a sub-select,
# which is decided once for each statement.
_SEES = "((SELECT sees_everything()) OR {column} = ANY ((SELECT visible_domains())::integer[]))"
POLICIES = {
    "domains": _SEES.format(column="id"),
    **{
        table: _SEES.format(column="domain_id")
        for table in (
            "persons",
            "face_embeddings",
            "face_rejections",
            "gallery_tombstones",
            "erasures",
            "migration_runs",
            "audit_chains",
            "audit_events",
            "idempotent_faces",
        )
    },
    # A key is for those to see who see all of its domains: `domains` shows only these.
    "api_keys": (
        "((SELECT sees_everything()) OR (NOT every_domain AND cardinality(domains) > 0"
        " AND domains <@ ARRAY(SELECT name FROM domains)))"
    ),
    "idempotent_requests": (
        f"({_SEES.format(column='domain_id')} OR (domain_id IS NULL AND client = (SELECT acting_client())))"
    ),
}
# What was said cannot be unsaid: events are taken out only by the owner, when their time is over.
_GRANTS = {"audit_events": "SELECT, INSERT", "audit_chains": "SELECT, INSERT, UPDATE"}
# What was sampled before it was turned off; PostgreSQL has a function for it since version 18.
_FORGET_STATISTICS = """
DO $$ BEGIN
    IF to_regproc('pg_clear_attribute_stats') IS NOT NULL THEN
        PERFORM pg_clear_attribute_stats(
            schemaname => n.nspname::text, relname => c.relname::text, attname => a.attname::text, inherited => i.inherited
        )
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace,
            (VALUES (false), (true)) AS i (inherited)
        WHERE a.attstattarget = 0 AND n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'i')
            AND NOT (i.inherited AND c.relkind = 'i');
    END IF;
END $$
"""
_ALL = "SELECT, INSERT, UPDATE, DELETE"


def upgrade() -> None:
    """Make what is new, and put up the walls, around the partitions that are there too."""
    op.execute(FUNCTIONS)
    op.execute(TABLES)
    for table, condition in POLICIES.items():
        _wall(table, condition)
        op.execute(f"GRANT {_GRANTS.get(table, _ALL)} ON {table} TO facedex_app")
    for (domain_id,) in op.get_bind().execute(text("SELECT id FROM domains")).all():
        partition = f"face_embeddings_{domain_id}"
        _wall(partition, f"(SELECT sees_domain({domain_id}))")
        op.execute(f"GRANT {_ALL} ON {partition} TO facedex_app")
        op.execute(f"ALTER TABLE {partition} ALTER COLUMN embedding SET STATISTICS 0")
        op.execute(f"ALTER INDEX IF EXISTS {partition}_hnsw ALTER COLUMN 1 SET STATISTICS 0")
    op.execute(_FORGET_STATISTICS)


def downgrade() -> None:
    """Take the walls down, with keys, events and feedback. The role stays: another database may use it."""
    partitions = [
        f"face_embeddings_{found}" for (found,) in op.get_bind().execute(text("SELECT id FROM domains")).all()
    ]
    for table in (*POLICIES, *partitions):
        op.execute(f"DROP POLICY tenant ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY; ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"REVOKE ALL ON {table} FROM facedex_app")
    op.execute(
        "DROP TABLE idempotent_faces, idempotent_requests, audit_events, audit_chains, api_keys, erasures,"
        " gallery_tombstones, face_rejections"
    )
    op.execute("DROP INDEX persons_validity_idx")
    op.execute(
        "ALTER TABLE persons DROP CONSTRAINT persons_metadata_check, DROP COLUMN external_id, DROP COLUMN former_labels,"
        " DROP COLUMN former_ids"
    )
    op.execute("DROP FUNCTION sees_domain, visible_domains, sees_everything, acting_client")


def _wall(table: str, condition: str) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} USING ({condition})")
