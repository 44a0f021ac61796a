"""A database of the test's own."""

from tests.db_server import database, database_settings, empty_database_settings, make_gallery, server_settings

__all__ = ["database", "database_settings", "empty_database_settings", "make_gallery", "server_settings"]
