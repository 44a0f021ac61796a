"""Persons in bulk."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session


def ensure_persons(session: Session, domain_id: int, labels: Collection[str]) -> tuple[dict[str, UUID], int]:
    """The persons of these labels, made where they are missing, under the domain's lock, which the caller holds.

    A label that is another person's id or external id is left out: it would hide that person from requests by these.

    Args:
        labels: each as `app.names.clean_name` keeps it.

    Returns:
        The ids by label, and how many persons are new.
    """
    parameters = {"domain_id": domain_id, "labels": list(labels)}
    new = session.execute(text(_INSERT_SQL), parameters | {"uuid": _UUID}).all()
    found = session.execute(text(_SELECT_SQL), parameters)
    return {label: person_id for label, person_id in found}, len(new)  # noqa: C416 - names what the columns are


_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_INSERT_SQL = """
INSERT INTO persons (domain_id, label, display_name)
SELECT :domain_id, label, label FROM unnest(CAST(:labels AS text[])) AS wanted (label)
WHERE NOT EXISTS (
    SELECT FROM persons AS other WHERE other.domain_id = :domain_id
        AND other.id = CASE WHEN wanted.label ~* :uuid THEN CAST(wanted.label AS uuid) END
) AND NOT EXISTS (
    SELECT FROM persons AS other
    WHERE other.domain_id = :domain_id AND other.external_id = wanted.label AND other.label <> wanted.label
)
ON CONFLICT (domain_id, label) DO NOTHING
RETURNING id
"""
_SELECT_SQL = "SELECT label, id FROM persons WHERE domain_id = :domain_id AND label = ANY(CAST(:labels AS text[]))"
