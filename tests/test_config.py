import fcntl
import re
from pathlib import Path

import pytest

from app.config import (
    PROJECT_ROOT,
    Settings,
    SettingsError,
    load_settings,
    parse_settings,
    publish_running,
    reload_settings,
    serve_lock,
)


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
    """bool("false") is True in Python; here it chooses the PKL service."""
    monkeypatch.setenv("VECTOR_DB_ENABLED", "false")
    assert parse_settings().vector_db_enabled is False


def test_datasets_are_a_json_object_of_names_and_paths(monkeypatch):
    monkeypatch.setenv("PKL_DATASETS", '{" S\\u030ckoda ": "data/s.pkl", "a/b": "/data/x"}')
    assert parse_settings().pkl_datasets == {"Škoda": PROJECT_ROOT / "data/s.pkl", "a/b": Path("/data/x")}


@pytest.mark.parametrize("value", ["{", "[]", "7", '{"": "x"}', '{"a": 7}', '{"a": null}'])
def test_datasets_that_are_none_are_named(monkeypatch, value):
    monkeypatch.setenv("PKL_DATASETS", value)
    with pytest.raises(SettingsError, match="PKL_DATASETS"):
        parse_settings()


def test_further_models_are_names_with_a_number_of_workers(monkeypatch):
    monkeypatch.setenv("EMBEDDER_EXTRA_MODELS", " buffalo_l = 2, dlib ,")
    assert parse_settings().embedder_extra_models == {"buffalo_l": 2, "dlib": 1}
    monkeypatch.setenv("EMBEDDER_EXTRA_MODELS", "")
    assert parse_settings().embedder_extra_models == {}


@pytest.mark.parametrize(
    "value", ["=2", "dlib=", "dlib=0", "dlib=257", "dlib=two", "dlib=-1", "dlib=1.5", "dlib,dlib=2"]
)
def test_further_models_that_are_none_are_named(monkeypatch, value):
    monkeypatch.setenv("EMBEDDER_EXTRA_MODELS", value)
    with pytest.raises(SettingsError, match="EMBEDDER_EXTRA_MODELS"):
        parse_settings()


@pytest.mark.parametrize("url", ["tcp://pool.example:9000", "tcp://[::1]:9000", "unix:/run/facedex/pool.sock"])
def test_a_pool_may_be_elsewhere(monkeypatch, tmp_path, url):
    own = parse_settings(storage_dir=tmp_path)
    assert own.embedder_address == f"unix:{tmp_path}/run/embedder.sock"
    monkeypatch.setenv("EMBEDDER_URL", url)
    assert parse_settings().embedder_address == url


def test_a_reload_reads_the_file_again_and_keeps_the_old_settings_where_it_is_broken(tmp_path, monkeypatch):
    file = tmp_path / "settings"
    file.write_text("VECTOR_DB_ENABLED=true\n")
    monkeypatch.setenv("ENV_FILE", str(file))
    load_settings.cache_clear()
    try:
        assert load_settings().vector_db_enabled is True
        file.write_text("VECTOR_DB_ENABLED=false\n")
        assert load_settings().vector_db_enabled is True
        assert reload_settings().vector_db_enabled is False
        assert load_settings().vector_db_enabled is False
        file.write_text("VECTOR_DB_ENABLED=perhaps\n")
        with pytest.raises(SettingsError, match="VECTOR_DB_ENABLED"):
            reload_settings()
        assert load_settings().vector_db_enabled is False
    finally:
        load_settings.cache_clear()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"PORT=8001\nPROT=8002\n", "PROT"),
        (b'HOST=::1\nVECTOR_DB_URL="unterminated\n', "line 2"),
        (b"PORT=8001\nFOO\n", "line 2"),
        (b"PORT=\xff\xfe\n", "cannot be read"),
        (b"STORAGE_DIR=~nosuchuser/x\n", "STORAGE_DIR"),
        (b"PORT=0\n", "PORT"),
        (b"VECTOR_DB_URL=postgresql://u:hunter2@h:abc/db\n", "VECTOR_DB_URL"),
        (b"EMBEDDER_URL=tcp://x:abc\n", "EMBEDDER_URL"),
        (b"EMBEDDER_URL=tcp://x\n", "EMBEDDER_URL"),
        (b"EMBEDDER_URL=tcp://:9000\n", "EMBEDDER_URL"),
        (b"EMBEDDER_URL=tcp://x:9000/pool\n", "EMBEDDER_URL"),
        (b"EMBEDDER_URL=http://x:9000\n", "EMBEDDER_URL"),
        (b"EMBEDDER_URL=unix:run/embedder.sock\n", "EMBEDDER_URL"),
        (b"EMBEDDER_MEMORY_MB=100\n", "EMBEDDER_MEMORY_MB"),
        (b"EMBEDDER_RECYCLE_MB=-1\n", "EMBEDDER_RECYCLE_MB"),
        (b"QUARANTINE_S=0\n", "QUARANTINE_S"),
    ],
)
def test_what_is_wrong_in_the_file_of_settings_is_named(tmp_path, monkeypatch, text, named):
    (tmp_path / "env").write_bytes(text)
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "env"))
    with pytest.raises(SettingsError, match=named) as caught:
        parse_settings()
    assert "hunter2" not in str(caught.value)


def test_the_environment_goes_before_the_file(tmp_path, monkeypatch):
    (tmp_path / "env").write_text("# a comment\nPORT=8001\nexport HOST=::1\n\n")
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "env"))
    monkeypatch.setenv("PORT", "8002")
    assert (parse_settings().port, parse_settings().host) == (8002, "::1")


def test_a_file_of_settings_that_is_missing_is_an_error_only_where_it_was_named(monkeypatch):
    monkeypatch.setenv("ENV_FILE", "/nonexistent")
    with pytest.raises(SettingsError, match="ENV_FILE"):
        parse_settings()


def test_commands_beside_a_running_service_have_its_settings(tmp_path, monkeypatch):
    started = parse_settings(
        storage_dir=tmp_path,
        vector_db_url="postgresql://u:p@h/db",
        web_threads=3,
        embedder_extra_models="buffalo_l=2,dlib",
    )
    started.run_dir.mkdir()
    publish_running(started)
    assert (started.run_dir / "settings.json").stat().st_mode & 0o777 == 0o600
    assert parse_settings(storage_dir=tmp_path).vector_db_url is None  # nobody holds the lock: no service runs
    with serve_lock(started).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        beside = parse_settings(storage_dir=tmp_path)
        assert beside.vector_db_url.get_secret_value() == "postgresql://u:p@h/db"
        assert beside.web_threads == 3
        assert beside.embedder_extra_models == {"buffalo_l": 2, "dlib": 1}
        monkeypatch.setenv("WEB_THREADS", "5")
        assert parse_settings(storage_dir=tmp_path).web_threads == 5


def test_the_processes_of_a_service_have_what_it_accepted_whatever_the_file_says_now(tmp_path, monkeypatch):
    file = tmp_path / "env"
    file.write_text("VECTOR_DB_ENABLED=false\nWEB_THREADS=3\n")
    monkeypatch.setenv("ENV_FILE", str(file))
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path))
    load_settings.cache_clear()
    try:
        accepted = reload_settings()
        accepted.run_dir.mkdir()
        publish_running(accepted)
        for content in ("VECTOR_DB_ENABLED=perhaps\n", "broken line\n", "VECTOR_DB_ENABLED=true\nWEB_THREADS=5\n"):
            file.write_text(content)
            monkeypatch.setenv("FACEDEX_SUPERVISED", "1")
            assert parse_settings() == reload_settings() == load_settings() == accepted
            monkeypatch.delenv("FACEDEX_SUPERVISED")
        with serve_lock(accepted).open("ab") as lock:  # the supervisor's own view while it runs
            fcntl.flock(lock, fcntl.LOCK_EX)
            file.write_text("WEB_THREADS=5\n")
            published = reload_settings()
            assert (published.vector_db_enabled, published.web_threads) == (True, 5)
        (accepted.run_dir / "settings.json").unlink()
        monkeypatch.setenv("FACEDEX_SUPERVISED", "1")
        with pytest.raises(SettingsError, match=r"settings\.json"):
            reload_settings()
        assert load_settings() == published
    finally:
        load_settings.cache_clear()


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


def test_each_web_process_has_threads_for_all_that_can_wait_for_the_pool():
    plain = parse_settings(embedder_workers=2)
    assert plain.web_threads == 2 + plain.embedder_queue + 8
    models = parse_settings(embedder_workers=2, embedder_queue=10, embedder_extra_models={"buffalo_l": 3})
    assert models.web_threads == 2 + 3 + 2 * 10 + 8
    assert parse_settings(embedder_queue=4096).web_threads == 512
    assert parse_settings(web_threads=5).web_threads == 5


def test_larger_vectors_are_scanned_in_smaller_galleries_unless_their_size_is_set():
    assert [parse_settings().exact_max_rows(dimension) for dimension in (128, 512, 1_536)] == [10_000, 2_500, 833]
    assert [parse_settings(search_exact_max_rows=rows).exact_max_rows(512) for rows in (0, 20_000)] == [0, 20_000]


def test_trusted_proxies_are_addresses_or_networks(tmp_path):
    given = parse_settings(storage_dir=tmp_path, trusted_proxies="10.0.0.7, 10.1.0.0/16,::1")
    assert given.trusted_proxies == ("10.0.0.7/32", "10.1.0.0/16", "::1/128")
    for wrong in ("proxy.example.com", "*", "10.0.0.0/33", "10.0.0.1/8"):
        with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
            parse_settings(storage_dir=tmp_path, trusted_proxies=wrong)


def test_allowed_origins_are_origins(tmp_path):
    given = parse_settings(storage_dir=tmp_path, allowed_origins="https://Shop.example.com, http://localhost:3000")
    assert given.allowed_origins == ("https://shop.example.com", "http://localhost:3000")
    for wrong in ("shop.example.com", "https://a/path", "https://a/", "ftp://a", "https://", "*", "https://a:port"):
        with pytest.raises(SettingsError, match="ALLOWED_ORIGINS"):
            parse_settings(storage_dir=tmp_path, allowed_origins=wrong)
