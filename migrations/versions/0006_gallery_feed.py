"""Versions of galleries: what has changed in each since when, for those who follow it.

The triggers stand here, and not in the program: no writer can forget one, and a version is given out while its domain's row is
locked, so that it is committed before the next one is (docs/decisions/0020).
"""

from alembic import op
from sqlalchemy import text

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

# A row for everybody who has, or had, templates: the version of the last change. Of who is gone it is all that is left.
_TABLES = """
ALTER TABLE domains
    ADD COLUMN gallery_token uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN gallery_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN gallery_pruned bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT domains_gallery_check CHECK (gallery_pruned BETWEEN 0 AND gallery_version);

CREATE TABLE gallery_changes (
    domain_id integer NOT NULL,
    person_id uuid NOT NULL,
    version bigint NOT NULL,
    removed boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT gallery_changes_pkey PRIMARY KEY (domain_id, person_id),
    CONSTRAINT gallery_changes_version_key UNIQUE (domain_id, version),
    CONSTRAINT gallery_changes_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE
);
-- Versions that were a domain's, by their tokens: a database that went back to a backup gives numbers again, but no tokens.
CREATE TABLE gallery_versions (
    domain_id integer NOT NULL,
    token uuid NOT NULL,
    version bigint NOT NULL,
    superseded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT gallery_versions_pkey PRIMARY KEY (domain_id, token),
    CONSTRAINT gallery_versions_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE
);
CREATE INDEX gallery_versions_superseded_idx ON gallery_versions (superseded_at);
ALTER TABLE gallery_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE gallery_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON gallery_versions
    USING (((SELECT sees_everything()) OR domain_id = ANY ((SELECT visible_domains())::integer[])));
GRANT SELECT, INSERT, UPDATE, DELETE ON gallery_versions TO facedex_app;
CREATE INDEX gallery_changes_removed_idx ON gallery_changes (changed_at) WHERE removed;
ALTER TABLE gallery_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE gallery_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON gallery_changes
    USING (((SELECT sees_everything()) OR domain_id = ANY ((SELECT visible_domains())::integer[])));
GRANT SELECT, INSERT, UPDATE, DELETE ON gallery_changes TO facedex_app;
"""

_FUNCTIONS = """
-- Gives each of the persons a version of their own, above all that there are. The domain's row is locked from here on until the
-- transaction ends, also where the writer has not locked it before. `added`: all of them have templates, nobody need look.
CREATE FUNCTION note_gallery_changes(domain integer, persons uuid[], added boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    PERFORM FROM domains WHERE id = domain FOR NO KEY UPDATE;
    INSERT INTO gallery_versions (domain_id, token, version)
        SELECT id, gallery_token, gallery_version FROM domains WHERE id = domain;
    UPDATE domains SET gallery_version = gallery_version + cardinality(persons), gallery_token = gen_random_uuid()
        WHERE id = domain
        RETURNING gallery_version INTO STRICT last;
    INSERT INTO gallery_changes (domain_id, person_id, version, removed)
        SELECT domain, person, last - cardinality(persons) + number, NOT (added OR EXISTS (
            SELECT FROM face_embeddings WHERE domain_id = domain AND person_id = person
        ))
        FROM unnest(persons) WITH ORDINALITY AS touched (person, number)
        ON CONFLICT (domain_id, person_id)
        DO UPDATE SET version = excluded.version, removed = excluded.removed, changed_at = now();
END
$$;

CREATE FUNCTION templates_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_gallery_changes(domain_id, array_agg(DISTINCT person_id), TG_OP = 'INSERT')
        FROM changed GROUP BY domain_id ORDER BY domain_id;
    RETURN NULL;
END
$$;

-- Templates that are another person's now are no longer the first one's.
CREATE FUNCTION templates_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_gallery_changes(domain_id, array_agg(DISTINCT person_id), false)
        FROM (SELECT domain_id, person_id FROM was UNION SELECT domain_id, person_id FROM changed) AS touched
        GROUP BY domain_id ORDER BY domain_id;
    RETURN NULL;
END
$$;

-- Who never had a template is in no copy of the gallery. Behind the lock, since who is getting the first one now is in it soon.
CREATE FUNCTION person_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM domains WHERE id = NEW.domain_id FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM gallery_changes WHERE domain_id = NEW.domain_id AND person_id = NEW.id) THEN
        PERFORM note_gallery_changes(NEW.domain_id, ARRAY[NEW.id], false);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER gallery AFTER UPDATE ON persons FOR EACH ROW
    WHEN ((OLD.display_name, OLD.valid_from, OLD.valid_until, OLD.metadata -> 'locks')
        IS DISTINCT FROM (NEW.display_name, NEW.valid_from, NEW.valid_until, NEW.metadata -> 'locks'))
    EXECUTE FUNCTION person_changed();

-- On the table of all templates, and on each partition: a statement that names one runs the triggers of that alone.
CREATE FUNCTION watch_templates(templates regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER gallery_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS changed'
        ' FOR EACH STATEMENT EXECUTE FUNCTION templates_changed()', templates);
    EXECUTE format('CREATE TRIGGER gallery_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS changed'
        ' FOR EACH STATEMENT EXECUTE FUNCTION templates_changed()', templates);
    EXECUTE format('CREATE TRIGGER gallery_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS was NEW TABLE AS changed'
        ' FOR EACH STATEMENT EXECUTE FUNCTION templates_moved()', templates);
END
$$;
SELECT watch_templates('face_embeddings');
"""

_NUMBER = """
INSERT INTO gallery_changes (domain_id, person_id, version)
    SELECT domain_id, person_id, row_number() OVER (PARTITION BY domain_id ORDER BY person_id)
    FROM (SELECT DISTINCT domain_id, person_id FROM face_embeddings) AS present;
UPDATE domains SET gallery_version = present.version
    FROM (SELECT domain_id, max(version) AS version FROM gallery_changes GROUP BY domain_id) AS present
    WHERE domains.id = present.domain_id;
"""

_TOMBSTONES = """
CREATE TABLE gallery_tombstones (
    domain_id integer NOT NULL,
    person_id uuid NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT gallery_tombstones_pkey PRIMARY KEY (domain_id, person_id),
    CONSTRAINT gallery_tombstones_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains (id) ON DELETE CASCADE
);
ALTER TABLE gallery_tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE gallery_tombstones FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON gallery_tombstones
    USING (((SELECT sees_everything()) OR domain_id = ANY ((SELECT visible_domains())::integer[])));
GRANT SELECT, INSERT, UPDATE, DELETE ON gallery_tombstones TO facedex_app;
"""


def upgrade() -> None:
    """Number what is there; nobody follows it yet, so that the tombstones so far are of no use."""
    driver = op.get_bind().connection.driver_connection  # past SQLAlchemy, for whom colons mean something
    driver.execute(_TABLES)
    driver.execute(_FUNCTIONS)
    for partition in _partitions():
        op.execute(f"SELECT watch_templates('{partition}')")
    op.execute("DROP TABLE gallery_tombstones")
    op.execute(_NUMBER)


def downgrade() -> None:
    """Stop numbering."""
    for table in ("face_embeddings", *_partitions()):
        op.execute("; ".join(f"DROP TRIGGER gallery_{kind} ON {table}" for kind in ("insert", "delete", "update")))
    op.execute("DROP TRIGGER gallery ON persons")
    op.execute(
        "DROP FUNCTION watch_templates(regclass), person_changed(), templates_moved(), templates_changed(),"
        " note_gallery_changes(integer, uuid[], boolean)"
    )
    op.execute("DROP TABLE gallery_changes, gallery_versions")
    op.execute(
        "ALTER TABLE domains DROP CONSTRAINT domains_gallery_check, DROP COLUMN gallery_token, DROP COLUMN gallery_version,"
        " DROP COLUMN gallery_pruned"
    )
    op.execute(_TOMBSTONES)


def _partitions() -> list[str]:
    return [f"face_embeddings_{found}" for (found,) in op.get_bind().execute(text("SELECT id FROM domains")).all()]
