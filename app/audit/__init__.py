"""What was done, by whom: events in chains that cannot be changed without its showing."""

from app.audit.chain import record, record_domain
from app.audit.event import Detail

__all__ = ["Detail", "record", "record_domain"]
