"""From what a client calls a domain to the domain."""

from sqlalchemy.orm import Session

from app.db import domains
from app.db.models import Domain
from app.names import clean_name


def find_domain(session: Session, name: str) -> Domain:
    """The domain of that name, in whatever spelling `clean_name` makes equal, or else of that id.

    Raises:
        InvalidName: no domain can have that name.
        DomainNotFound: none has it.
    """
    return domains.find_domain(session, clean_name(name, "domain name"))
