import re

import pytest

from app.config import PROJECT_ROOT, Settings, SettingsError, parse_settings


@pytest.fixture(autouse=True)
def _no_dotenv(monkeypatch):
    monkeypatch.setitem(Settings.model_config, "env_file", None)


def test_defaults_need_no_environment():
    settings = parse_settings()
    assert settings.storage_dir == PROJECT_ROOT / "storage"
    assert settings.vector_db_url is None


def test_a_malformed_value_is_named_and_not_repeated(monkeypatch):
    monkeypatch.setenv("PORT", "eighty-secret")
    with pytest.raises(SettingsError, match="PORT") as caught:
        parse_settings()
    assert "eighty-secret" not in str(caught.value)


def test_false_is_not_true(monkeypatch):
    """bool("false") is True in Python; here it chooses the PKL service, which does not exist yet, and says so."""
    monkeypatch.setenv("VECTOR_DB_ENABLED", "false")
    with pytest.raises(SettingsError, match="VECTOR_DB_ENABLED"):
        parse_settings()


def test_an_unknown_key_in_dotenv_is_named(tmp_path, monkeypatch):
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=8001\nPROT=8002\n")
    monkeypatch.setitem(Settings.model_config, "env_file", dotenv)
    with pytest.raises(SettingsError, match="PROT"):
        parse_settings()


def test_the_database_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("VECTOR_DB_URL", "postgresql://user:hunter2@db/facedex")
    assert "hunter2" not in repr(parse_settings())


def test_a_wrong_database_url_does_not_show_its_password(monkeypatch):
    monkeypatch.setenv("VECTOR_DB_URL", "mysql://user:hunter2@db/facedex")
    with pytest.raises(SettingsError) as caught:
        parse_settings()
    assert "VECTOR_DB_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_sockets_of_a_deep_storage_folder_still_have_a_short_path(tmp_path):
    deep = tmp_path.joinpath(*["a-rather-long-folder-name"] * 6)
    settings = parse_settings(storage_dir=deep)
    assert len(str(settings.run_dir)) < 80
    assert settings.run_dir == parse_settings(storage_dir=deep).run_dir
    assert settings.run_dir != parse_settings(storage_dir=deep / "b").run_dir


def test_env_example_lists_every_setting_and_nothing_else():
    listed = set(re.findall(r"^#([A-Z_]+)=", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE))
    assert listed == {name.upper() for name in Settings.model_fields}


def test_env_example_shows_the_defaults():
    shown = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE))
    settings = parse_settings(
        storage_dir="storage", **{k.lower(): v for k, v in shown.items() if v and k != "STORAGE_DIR"}
    )
    assert settings == parse_settings()
