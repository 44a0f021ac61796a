"""Whose data is within reach: set where somebody begins to act, kept by the database's row-level security.

What nobody has set reaches nothing: code that forgets it finds empty tables, not another tenant's rows.
"""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_CLIENT = re.compile(r"[A-Za-z0-9-]{0,64}")


@dataclass(frozen=True, slots=True)
class Reach:
    """The domains that somebody may see and change.

    Attributes:
        client: who acts: the id of an API key, or `admin` or `cli`.
        names: names of the domains, whether they are in the database or only in datasets.
        ids: numbers in the database (`Domain.id`) of those that are there.
        everything: every domain, also those to come; the other two are empty then.
    """

    client: str
    names: frozenset[str] = frozenset()
    ids: frozenset[int] = frozenset()
    everything: bool = False

    def __post_init__(self) -> None:
        # It becomes part of a statement.
        if not _CLIENT.fullmatch(self.client):
            raise ValueError("The id of a client is letters, digits and hyphens.")

    def includes(self, name: str) -> bool:
        """Whether the domain of that name is within reach, wherever its data lies."""
        return self.everything or name in self.names

    @property
    def as_setting(self) -> str:
        """The value of `facedex.domains`, which the policies read (migration 0003)."""
        return "*" if self.everything else ",".join(str(int(number)) for number in sorted(self.ids))


NOTHING: Final = Reach("")
_reach: ContextVar[Reach] = ContextVar("reach", default=NOTHING)


def current_reach() -> Reach:
    """What whoever acts now may reach."""
    return _reach.get()


def everything(client: str) -> Reach:
    """The reach of the installation's own administrator and programs."""
    return Reach(client, everything=True)


def set_reach(reach: Reach) -> None:
    """For a server that begins a new request on a thread it has used before; others use `acting`."""
    _reach.set(reach)


@contextmanager
def acting(reach: Reach) -> Generator[None]:
    """Act with this reach in the block, and as before after it."""
    token = _reach.set(reach)
    try:
        yield
    finally:
        _reach.reset(token)


def carried(function: Callable[P, R]) -> Callable[P, R]:
    """The function as it would run here and now, for other threads: a new thread reaches nothing by itself."""
    context = copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(function, *args, **kwargs)  # a copy each: several threads may call it at once

    return run
