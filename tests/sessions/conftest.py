"""The services over a database of the test's own and drawn pictures, and two domains in it."""

from tests.db_server import database, database_settings, empty_database_settings, make_gallery, server_settings
from tests.enrolment.conftest import office
from tests.sessions.studio import studio

__all__ = [
    "database",
    "database_settings",
    "empty_database_settings",
    "make_gallery",
    "office",
    "server_settings",
    "studio",
]
