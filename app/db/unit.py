"""Several transactions of one thread as one: what is claimed, done and answered is stored together, or not at all."""

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.tenancy import Reach, current_reach

APP_ROLE: Final = "facedex_app"
"""The role of every transaction that is no maintenance: it owns nothing, so that the policies apply to it (migration 0003)."""

_DEFAULT: Final = "DEFAULT"


@dataclass(slots=True)
class Unit:
    """A transaction that others join, each as a savepoint.

    Attributes:
        owner: whose it is: a transaction of another `Database` does not join.
        session: the one of all of them.
        settings, reach: what is set now, by the innermost of those that are in work.
        afterwards: what is to be done once it is committed (`Database.once_committed`).
    """

    owner: object
    session: Session
    settings: Mapping[str, str]
    reach: Reach = field(default_factory=current_reach)
    thread: int = field(default_factory=threading.get_ident)
    depth: int = 0
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    @contextmanager
    def joined(self, settings: Mapping[str, str]) -> Generator[Session]:
        """A savepoint with the reach of whoever acts now: released at the end of the block, rolled back when it raises."""
        session, reach = self.session, current_reach()
        above = self.reach, self.settings
        changed = reach != self.reach or settings
        self.reach, self.settings = reach, {**self.settings, **settings}
        self.depth += 1
        try:
            with session.begin_nested():
                if changed:
                    enter(session, reach, settings)
                yield session
                session.flush()
                if changed:  # a rollback to the savepoint takes them back by itself
                    enter(session, above[0], {name: above[1].get(name, _DEFAULT) for name in settings})
        finally:
            self.reach, self.settings = above
            self.depth -= 1
            if self.depth == 0:
                session.expunge_all()  # as at the end of a transaction: the next one reads anew


_current: ContextVar[Unit | None] = ContextVar("unit_of_work", default=None)


def current_unit(owner: object) -> Unit | None:
    """The unit that a transaction of `owner` in this thread belongs to; a context carried to other threads takes none along."""
    unit = _current.get()
    return unit if unit is not None and unit.owner is owner and unit.thread == threading.get_ident() else None


@contextmanager
def working(unit: Unit) -> Generator[None]:
    """In the block, transactions join this unit."""
    token = _current.set(unit)
    try:
        yield
    finally:
        _current.reset(token)


def enter(session: Session, reach: Reach, settings: Mapping[str, str]) -> None:
    """Become the role without rights of its own, with this reach, until the transaction ends; in one round trip."""
    session.execute(text(enter_sql(reach, settings)))


def enter_sql(reach: Reach, settings: Mapping[str, str]) -> str:
    """What `enter` says to the server; has no values that would have to be quoted."""
    # Not by `set_config`, whose SELECT would rule out a change of the isolation level.
    # Literals: what stands between the quotes is letters, digits, commas, hyphens and the asterisk (`Reach`).
    values = {"facedex.domains": reach.as_setting, "facedex.client": reach.client, **settings}
    quoted = {name: value if value == _DEFAULT else f"'{value}'" for name, value in values.items()}
    statements = "; ".join(f"SET LOCAL {name} = {value}" for name, value in quoted.items())
    return f"SET LOCAL ROLE {APP_ROLE}; {statements}"
