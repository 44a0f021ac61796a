"""Persons are searched by names as people type them: in any case, without accents.

The database makes the searched text itself, of whatever stands in the row: no writer can forget it. No index helps: the
policies that keep tenants apart let none be asked for a part of a text. A domain's texts are looked through, by label.
"""

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

# Letters that Unicode does not take for another one with an accent, but who has no such key types that one.
_UP = """
CREATE FUNCTION folded_name(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
    RETURN translate(
        replace(lower(regexp_replace(normalize(name, NFKD), U&'[\\0300-\\036F]', '', 'g')), 'ß', 'ss'), 'đøłħŧı', 'dolhti'
    );
-- In a name there is no line break: what is found is within one of them.
CREATE FUNCTION searched_names(label text, display_name text, external_id text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN folded_name(label || E'\\n' || display_name || E'\\n' || coalesce(external_id, ''));
ALTER TABLE persons ADD COLUMN searched text NOT NULL
    GENERATED ALWAYS AS (searched_names(label, display_name, external_id)) STORED;
-- As of the names themselves (0003): statistics are samples of the values.
ALTER TABLE persons ALTER COLUMN searched SET STATISTICS 0;
"""


def upgrade() -> None:
    op.execute(_UP)


def downgrade() -> None:
    op.execute("ALTER TABLE persons DROP COLUMN searched")
    op.execute("DROP FUNCTION searched_names(text, text, text), folded_name(text)")
