"""Statements that a connection keeps the plans of, for texts that go to the server whole.

The driver prepares statements too, but sends each by itself; one among others in a text is planned anew each time, which takes
longer than it does.
"""

import re
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg

_VALUE: Final = re.compile(r"%\((\w+)\)s")
# What each connection has prepared.
_known: Final[WeakKeyDictionary[psycopg.Connection[Any], set[str]]] = WeakKeyDictionary()


def prepared(connection: psycopg.Connection[Any], statement: str) -> str:
    """What to say in place of the statement, which the connection prepares where it has not yet; with the same `%(name)s`.

    The server finds out the types of the values from the statement.

    Args:
        statement: one, as of the driver.

    Raises:
        psycopg.Error: the statement cannot be prepared.
    """
    prepare, execute = _texts(statement)
    known = _known.setdefault(connection, set())
    if statement not in known:
        connection.execute(prepare.encode(), prepare=False)
        known.add(statement)
    return execute


def correct(connection: psycopg.Connection[Any], statement: str, *, is_there: bool) -> None:
    """Take note of what the server says of one statement, and of no other: the driver has the connection drop all that it has
    prepared, its own and ours, after rollbacks and some changes of the schema.
    """
    known = _known.setdefault(connection, set())
    if is_there:
        known.add(statement)
    else:
        known.discard(statement)


@lru_cache(maxsize=64)
def _texts(statement: str) -> tuple[str, str]:
    names = list(dict.fromkeys(_VALUE.findall(statement)))
    numbered = _VALUE.sub(lambda found: f"${names.index(found[1]) + 1}", statement).replace("%%", "%")
    name = f"facedex_{sha256(statement.encode()).hexdigest()[:16]}"
    values = ", ".join(f"%({value})s" for value in names)
    return f"PREPARE {name} AS {numbered}", f"EXECUTE {name}" + (f"({values})" if values else "")
