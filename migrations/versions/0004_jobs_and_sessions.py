"""Jobs with their files, reference photos, and sessions of frames: what is worked on beside requests, or over several of them.

All of it goes when its domain or its person does. What only has a label, because the person may not exist yet, is deleted by
the erasure (`app/erasure`).
"""

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = """
-- Raised by whatever makes extracted faces that somebody has kept outside the database out of date; a part of their keys.
ALTER TABLE domains ADD COLUMN cache_epoch bigint NOT NULL DEFAULT 0;

CREATE TABLE jobs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    domain_id integer,
    person_id uuid,
    kind text NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    arguments jsonb NOT NULL DEFAULT '{}',
    attempts integer NOT NULL DEFAULT 0,
    done integer NOT NULL DEFAULT 0,
    total integer,
    result jsonb,
    error_code text,
    error_message text,
    created_by text NOT NULL,
    request_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT jobs_pkey PRIMARY KEY (id),
    CONSTRAINT jobs_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE,
    CONSTRAINT jobs_person_fkey FOREIGN KEY (domain_id, person_id) REFERENCES persons (domain_id, id) ON DELETE CASCADE,
    CONSTRAINT jobs_state_check CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    CONSTRAINT jobs_finished_check CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    CONSTRAINT jobs_done_check CHECK (done >= 0 AND (total IS NULL OR done <= total))
);
CREATE INDEX jobs_domain_id_idx ON jobs (domain_id, created_at, id);
CREATE INDEX jobs_person_idx ON jobs (domain_id, person_id) WHERE person_id IS NOT NULL;

-- The files of a bulk enrolment; the picture is here until its file is settled.
CREATE TABLE job_files (
    job_id uuid NOT NULL,
    position integer NOT NULL,
    domain_id integer NOT NULL,
    label text NOT NULL,
    file_name text NOT NULL,
    image_sha256 bytea,
    picture bytea,
    state text NOT NULL DEFAULT 'waiting',
    face_id uuid,
    error_code text,
    error_message text,
    CONSTRAINT job_files_pkey PRIMARY KEY (job_id, position),
    CONSTRAINT job_files_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobs (id) ON DELETE CASCADE,
    CONSTRAINT job_files_state_check CHECK (state IN ('waiting', 'enrolled', 'rejected', 'failed')),
    CONSTRAINT job_files_picture_check CHECK (picture IS NULL OR state IN ('waiting', 'failed'))
);
CREATE INDEX job_files_label_idx ON job_files (domain_id, label);
CREATE INDEX job_files_waiting_idx ON job_files (job_id, position) WHERE state = 'waiting';
ALTER TABLE job_files ALTER COLUMN label SET STATISTICS 0;
ALTER TABLE job_files ALTER COLUMN file_name SET STATISTICS 0;
ALTER TABLE job_files ALTER COLUMN picture SET STATISTICS 0, ALTER COLUMN picture SET STORAGE EXTERNAL;

-- An old photo of a person, here until a face was found in it.
CREATE TABLE reference_photos (
    domain_id integer NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    person_id uuid NOT NULL,
    image_sha256 bytea NOT NULL,
    picture bytea,
    state text NOT NULL DEFAULT 'waiting',
    strategy text,
    face_id uuid,
    warnings text[] NOT NULL DEFAULT '{}',
    error_code text,
    error_message text,
    job_id uuid,
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz,
    claimed_until timestamptz,
    CONSTRAINT reference_photos_pkey PRIMARY KEY (domain_id, id),
    CONSTRAINT reference_photos_image_key UNIQUE (domain_id, person_id, image_sha256),
    CONSTRAINT reference_photos_person_fkey FOREIGN KEY (domain_id, person_id)
        REFERENCES persons (domain_id, id) ON DELETE CASCADE,
    CONSTRAINT reference_photos_job_id_fkey FOREIGN KEY (job_id) REFERENCES jobs (id) ON DELETE SET NULL,
    CONSTRAINT reference_photos_state_check CHECK (state IN ('waiting', 'extracted', 'failed')),
    CONSTRAINT reference_photos_picture_check CHECK (picture IS NOT NULL OR state = 'extracted')
);
CREATE INDEX reference_photos_waiting_idx ON reference_photos (domain_id, created_at) WHERE state = 'waiting';
CREATE INDEX reference_photos_job_id_idx ON reference_photos (job_id) WHERE job_id IS NOT NULL;
ALTER TABLE reference_photos ALTER COLUMN picture SET STATISTICS 0, ALTER COLUMN picture SET STORAGE EXTERNAL;

CREATE TABLE face_sessions (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    domain_id integer NOT NULL,
    kind text NOT NULL,
    label text NOT NULL,
    person_id uuid,
    created_by text NOT NULL,
    token_sha256 bytea NOT NULL,
    limits jsonb NOT NULL,
    state text NOT NULL DEFAULT 'open',
    connection integer NOT NULL DEFAULT 0,
    frames integer NOT NULL DEFAULT 0,
    progress jsonb NOT NULL DEFAULT '{}',
    result jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    finished_at timestamptz,
    CONSTRAINT face_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT face_sessions_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE,
    CONSTRAINT face_sessions_person_fkey FOREIGN KEY (domain_id, person_id)
        REFERENCES persons (domain_id, id) ON DELETE CASCADE,
    CONSTRAINT face_sessions_kind_check CHECK (kind IN ('enrol', 'verify')),
    CONSTRAINT face_sessions_state_check CHECK (state IN ('open', 'succeeded', 'failed', 'expired', 'cancelled')),
    CONSTRAINT face_sessions_finished_check CHECK ((finished_at IS NULL) = (state = 'open'))
);
CREATE INDEX face_sessions_domain_id_idx ON face_sessions (domain_id, created_at, id);
CREATE INDEX face_sessions_label_idx ON face_sessions (domain_id, label);
CREATE INDEX face_sessions_open_idx ON face_sessions (expires_at) WHERE state = 'open';
ALTER TABLE face_sessions ALTER COLUMN label SET STATISTICS 0;

-- The good frames so far of a session that is open; they go when it ends.
CREATE TABLE face_session_frames (
    session_id uuid NOT NULL,
    frame integer NOT NULL,
    domain_id integer NOT NULL,
    contract text NOT NULL,
    embedding vector NOT NULL,
    details jsonb NOT NULL,
    image_sha256 bytea NOT NULL,
    picture bytea,
    CONSTRAINT face_session_frames_pkey PRIMARY KEY (session_id, frame),
    CONSTRAINT face_session_frames_session_id_fkey FOREIGN KEY (session_id) REFERENCES face_sessions (id) ON DELETE CASCADE
);
ALTER TABLE face_session_frames ALTER COLUMN embedding SET STORAGE PLAIN, ALTER COLUMN embedding SET STATISTICS 0;
ALTER TABLE face_session_frames ALTER COLUMN picture SET STORAGE EXTERNAL, ALTER COLUMN picture SET STATISTICS 0;
"""

FUNCTIONS = """
-- How near a face is to a person's templates, and to what was rejected for them: those of one partition by its name, so that no
-- other is planned for. Nothing is ordered: no index of vectors serves it.
CREATE FUNCTION distances_to_person(domain integer, person uuid, probe vector)
RETURNS TABLE (templates bigint, nearest double precision, rejected double precision)
LANGUAGE plpgsql STABLE STRICT ROWS 1 AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT count(*), min(1 + (embedding <#> $3)), (SELECT min(1 + (r.embedding <#> $3)) FROM face_rejections AS r'
        ' WHERE r.domain_id = $1 AND r.person_id = $2) FROM %I WHERE domain_id = $1 AND person_id = $2',
        'face_embeddings_' || domain
    ) USING domain, person, probe;
END $$;

-- Whether somebody may still act: false of a key that was revoked or has expired, whoever asks.
CREATE FUNCTION client_may_act(client text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET facedex.domains = '*' SET search_path FROM CURRENT AS $$
    SELECT CASE WHEN client ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN EXISTS (
        SELECT FROM api_keys WHERE id = CAST(client AS uuid) AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > statement_timestamp())
    ) ELSE true END
$$;
"""

# As in migration 0003.
_SEES = "((SELECT sees_everything()) OR {column} = ANY ((SELECT visible_domains())::integer[]))"
POLICIES = {
    **{
        table: _SEES.format(column="domain_id")
        for table in ("job_files", "reference_photos", "face_sessions", "face_session_frames")
    },
    "jobs": f"({_SEES.format(column='domain_id')} OR (domain_id IS NULL AND created_by = (SELECT acting_client())))",
}


def upgrade() -> None:
    """Make the tables and their walls."""
    op.execute(TABLES)
    op.get_bind().exec_driver_sql(FUNCTIONS)
    for table, condition in POLICIES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({condition})")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO facedex_app")


def downgrade() -> None:
    """Remove them with what is in them."""
    op.execute("DROP FUNCTION distances_to_person, client_may_act")
    op.execute("DROP TABLE face_session_frames, face_sessions, reference_photos, job_files, jobs")
    op.execute("ALTER TABLE domains DROP COLUMN cache_epoch")
