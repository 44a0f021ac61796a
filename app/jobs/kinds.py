"""The kinds of jobs, and what does each. A handler is idempotent: it may be broken off anywhere, and is begun again."""

from collections.abc import Mapping
from typing import Final

from app.jobs.context import Handler

KINDS: Final[Mapping[str, Handler]] = {}
