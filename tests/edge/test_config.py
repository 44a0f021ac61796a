from pathlib import Path

import pytest

from app.edge.config import EdgeConfig, load_config, parse_config
from app.edge.errors import ConfigError
from app.edge.secrets import KEY_VARIABLE, PASSWORD_VARIABLE, read_secrets

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/edge.example.toml"

LEAST = """
name = "front-desk"
[server]
url = "http://127.0.0.1:8000"
domain = "hotel"
key_file = "api.key"
[gallery]
cache = "gallery.cache"
contract = "made-up:16:0000000000000000"
[broker]
host = "127.0.0.1"
[[cameras]]
name = "entrance"
source = "folder:frames"
locks = ["DC001", "DC006"]
"""


def parse(text: str = LEAST) -> EdgeConfig:
    return parse_config(text, Path("/etc/edge"))


def test_the_example_is_accepted():
    config = load_config(EXAMPLE)
    assert config.locks == {"DC001", "DC006", "DC007"}
    assert config.recognition.mode == "auto"


def test_what_the_example_comments_out_is_the_default_or_accepted():
    lines = EXAMPLE.read_text().splitlines()
    optional = {"contract", "username", "password_file", "ca_file", "threshold", "margin", "max_distance", "region"}
    optional |= {"table", "horizon_s", "[gallery.dynamodb]"}
    optional |= {"[gallery.dynamodb.reservations]", "[gallery.dynamodb.members]"}
    uncommented = []
    for line in lines:
        setting = line.removeprefix("# ").split(" ")[0]
        shown = line.startswith("# ") and ("=" in line or line.startswith("# [")) and setting not in optional
        uncommented.append(line.removeprefix("# ") if shown else line)
    assert parse_config("\n".join(uncommented), EXAMPLE.parent) == load_config(EXAMPLE)


def test_every_setting_is_in_the_example():
    text = EXAMPLE.read_text()

    def names(model):
        for name, field in model.model_fields.items():
            inner = [
                part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if part is not None
            ]
            sections = [part for part in inner if hasattr(part, "model_fields")]
            for section in sections:
                yield from names(section)
            if not sections:
                yield name

    missing = [name for name in names(EdgeConfig) if f"{name} = " not in text and f"dynamodb.{name}]" not in text]
    assert missing == ["endpoint"]  # of another DynamoDB than Amazon's


def test_relative_paths_start_beside_the_file():
    config = parse()
    assert config.gallery.cache == Path("/etc/edge/gallery.cache")
    assert config.server.key_file == Path("/etc/edge/api.key")
    assert config.cameras[0].source == "folder:/etc/edge/frames"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('host = "127.0.0.1"', 'hots = "127.0.0.1"'), "broker.hots: there is no such setting"),
        (('host = "127.0.0.1"', ""), "broker.host: Field required"),
        (("[broker]", "[brokers]"), "brokers: there is no such setting"),
        (('domain = "hotel"', 'domain = "hotel"\ntimeout_s = "4"'), "server.timeout_s: "),
        (('domain = "hotel"', 'domain = "hotel"\ntimeout_s = nan'), "server.timeout_s: "),
        (('domain = "hotel"', 'domain = "hotel"\nattempts = 1.5'), "server.attempts: "),
        (('source = "folder:frames"', 'source = "frames"'), 'cameras["entrance"].source: '),
        (('source = "folder:frames"', ""), 'cameras["entrance"]: Value error, either source or source_file'),
        (('"folder:frames"', '"rtsp://user:pass@camera/1"'), "belongs into a file of its own"),
        (('["DC001", "DC006"]', '["DC001", "DC001"]'), "locks: 'DC001' stands there twice"),
        (('["DC001", "DC006"]', "[]"), "a camera without locks"),
        (('["DC001", "DC006"]', '["DC001/set"]'), 'cameras["entrance"].locks[0]: '),
        (('["DC001", "DC006"]', '["#"]'), 'cameras["entrance"].locks[0]: '),
        (('name = "front-desk"', 'name = "a/b"'), "name: "),
        (('domain = "hotel"', 'domain = "a/b"'), "server.domain: such a name cannot stand in an address"),
        (("contract =", "#"), "gallery.contract is needed"),
        (("[gallery]", '[recognition]\nmode = "auto"\n[gallery]'), 'mode = "auto" needs models_dir'),
        (("[gallery]", '[gallery]\nsource = "dynamodb"'), "[gallery.dynamodb] belong together"),
        (
            ("[broker]", '[gallery.dynamodb.members]\nnam = "x"\n[broker]'),
            "gallery.dynamodb: Value error, members.nam: there is no such setting",
        ),
        (("[broker]", '[gallery.dynamodb.reservations]\nwritten = "hours"\n[broker]'), "written: "),
        (('url = "http://127.0.0.1:8000"', 'url = "http://user:pass@host"'), "server.url: "),
        (("[broker]", "[broker"), "not TOML: "),
    ],
)
def test_a_fault_is_named(change, message):
    assert change[0] in LEAST
    with pytest.raises(ConfigError) as raised:
        parse(LEAST.replace(*change, 1))
    assert message in str(raised.value)
    assert "pass" not in str(raised.value).replace("password", "")


def test_two_cameras_of_one_name_are_an_error():
    with pytest.raises(ConfigError, match="the name 'entrance' stands there twice"):
        parse(LEAST + LEAST[LEAST.index("[[cameras]]") :])


def test_all_faults_are_told_at_once():
    text = LEAST.replace('domain = "hotel"', "domian = 1").replace('host = "127.0.0.1"', "host = 1")
    with pytest.raises(ConfigError) as raised:
        parse(text)
    assert all(name in str(raised.value) for name in ("server.domain", "server.domian", "broker.host"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load_config(tmp_path / "nowhere.toml")


def test_secrets_come_from_files_and_the_environment_and_are_never_shown(tmp_path):
    (tmp_path / "api.key").write_text("key-of-the-file\n")
    (tmp_path / "camera").write_text("rtsp://user:word@camera/1\n")
    text = LEAST.replace('source = "folder:frames"', 'source_file = "camera"')
    config = parse_config(text, tmp_path)
    secrets = read_secrets(config, {PASSWORD_VARIABLE: "of-the-broker"})
    assert secrets.api_key.get_secret_value() == "key-of-the-file"
    assert secrets.broker_password.get_secret_value() == "of-the-broker"
    assert secrets.sources["entrance"].get_secret_value() == "rtsp://user:word@camera/1"
    shown = f"{secrets!r} {secrets} {config!r}"
    assert not any(secret in shown for secret in ("key-of-the-file", "of-the-broker", "user:word"))
    assert read_secrets(config, {KEY_VARIABLE: "other"}).api_key.get_secret_value() == "other"


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff\xfe"])
def test_a_secret_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path, content):
    if content is not None:
        (tmp_path / "api.key").write_bytes(content)
    with pytest.raises(ConfigError, match=r"api\.key"):
        read_secrets(parse_config(LEAST, tmp_path), {})


def test_no_key_at_all_is_an_error():
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        read_secrets(parse(LEAST.replace('key_file = "api.key"', "")), {})
