"""Datasets that move into domains: whether a domain is complete, and how far each run has come."""

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

UPGRADE = """
ALTER TABLE domains ADD COLUMN complete boolean NOT NULL DEFAULT true;

CREATE TABLE migration_runs (
    id integer GENERATED ALWAYS AS IDENTITY,
    domain_id integer NOT NULL,
    source_name text NOT NULL,
    source_sha256 bytea NOT NULL,
    mode text NOT NULL,
    state text NOT NULL DEFAULT 'running',
    rows_total integer,
    rows_done integer NOT NULL DEFAULT 0,
    rows_migrated integer NOT NULL DEFAULT 0,
    persons integer NOT NULL DEFAULT 0,
    skipped jsonb NOT NULL DEFAULT '{}',
    seconds jsonb NOT NULL DEFAULT '{}',
    error_code text,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT migration_runs_pkey PRIMARY KEY (id),
    CONSTRAINT migration_runs_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE,
    CONSTRAINT migration_runs_mode_check CHECK (mode IN ('copy', 'reembed')),
    CONSTRAINT migration_runs_state_check CHECK (state IN ('running', 'failed', 'finished')),
    CONSTRAINT migration_runs_rows_check CHECK (rows_migrated BETWEEN 0 AND rows_done)
);

-- At most one that is not over: it is the one to take up again.
CREATE UNIQUE INDEX migration_runs_unfinished_idx ON migration_runs (domain_id, source_sha256) WHERE state <> 'finished';
CREATE INDEX migration_runs_domain_id_idx ON migration_runs (domain_id, id);
"""

DOWNGRADE = """
DROP TABLE migration_runs;
ALTER TABLE domains DROP COLUMN complete;
"""


def upgrade() -> None:
    """Every domain that is there has been filled by enrolment: it is complete."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Forget the runs. A domain whose migration has not finished would look complete: finish or delete it before."""
    op.execute(DOWNGRADE)
