"""The database's fixtures, and what keeps and manages keys over them."""

from dataclasses import dataclass

import pytest

from app.config import Settings, parse_settings
from app.datasets.store import DatasetStore
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.keys.admin_key import AdminKey, create_admin_key
from app.keys.authentication import Authenticator
from app.keys.keeper import KeyKeeper
from app.keys.service import KeyService
from app.vision.packs import PackStore


@dataclass
class Keys:
    """One process's view of an installation's keys."""

    settings: Settings
    keeper: KeyKeeper
    service: KeyService
    authenticator: Authenticator

    def whose(self, text: str):
        return self.authenticator.principal(text, 5.0)


@pytest.fixture
def keys_of(database_settings, tmp_path):
    """Makes such views: with other settings, the database away, say."""

    def make(**changes) -> Keys:
        settings = database_settings.model_copy(update={"storage_dir": tmp_path / "storage", **changes})
        own = Database(settings)
        keeper = KeyKeeper(settings, own.reserve, CircuitBreaker())
        datasets = DatasetStore(settings, PackStore(settings.models_dir))
        create_admin_key(settings.admin_key_file)
        made.append(own)
        return Keys(
            settings,
            keeper,
            KeyService(settings, own, datasets, keeper),
            Authenticator(AdminKey(settings.admin_key_file), keeper),
        )

    made: list[Database] = []
    yield make
    for own in made:
        own.close()


@pytest.fixture
def keys(keys_of):
    return keys_of()


AWAY = parse_settings(vector_db_url="postgresql://nobody@127.0.0.1:1/x").vector_db_url
"""Where no database is."""
