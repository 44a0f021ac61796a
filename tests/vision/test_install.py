"""Installing packs from folders, archives and a web server of our own; what goes wrong leaves nothing behind."""

import hashlib
import io
import json
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from app.errors import DownloadFailed, InvalidPack, LicenseNotAccepted, UnknownModel
from app.vision import archives, catalog, download
from app.vision.catalog import KnownPack
from app.vision.install import PackFacts, install_pack
from app.vision.packs import InstalledPack, PackStore
from tests.packs import SCRFD_NAME, install_scrfd, scrfd_folder

_FACTS = PackFacts(licence="for tests", threshold=0.6)


def _install(models_dir: Path, source: Path | str, **options: object) -> InstalledPack:
    arguments = {"accept_license": True, "facts": _FACTS} | options
    return install_pack(models_dir, "mine", source=source, **arguments)


def _assert_nothing_installed(models_dir: Path) -> None:
    assert PackStore(models_dir).names() == []
    assert [path.name for path in models_dir.glob("*") if not path.name.startswith(".lock-")] == []


def _archive(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _model_files(prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in scrfd_folder().glob("*.onnx")}


@pytest.fixture
def archive_file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "pack.zip"
        path.write_bytes(content)
        return path

    return write


def test_folder_without_manifest_is_recognised_by_its_graphs(tmp_path: Path) -> None:
    pack = install_scrfd(tmp_path)

    manifest = PackStore(tmp_path).verify(SCRFD_NAME).manifest
    assert manifest == pack.manifest
    assert manifest.files["detector"].name == "det_500m.onnx"
    assert manifest.files["embedder"].name == "mobilefacenet_128.onnx"
    assert manifest.dimension == 128
    assert manifest.weights_sha256 == manifest.files["embedder"].sha256
    assert manifest.calibration.threshold == 0.6
    assert manifest.licence.non_commercial


def test_an_installed_folder_is_installed_elsewhere_by_its_manifest(tmp_path: Path) -> None:
    pack = install_scrfd(tmp_path / "one")

    copy = install_pack(tmp_path / "two", SCRFD_NAME, source=pack.folder, accept_license=True)

    assert copy.manifest == pack.manifest
    assert PackStore(tmp_path / "two").verify(SCRFD_NAME)


@pytest.mark.parametrize("prefix", ["", "mine/", "a/b/"])
def test_archive_is_installed_whatever_folder_its_files_are_in(
    tmp_path: Path, archive_file: Callable[[bytes], Path], prefix: str
) -> None:
    more = {"README.txt": b"read me", f"{prefix}genderage.txt": b"x"}

    pack = _install(tmp_path / "models", archive_file(_archive(_model_files(prefix) | more)))

    assert sorted(path.name for path in pack.folder.iterdir()) == [
        "det_500m.onnx",
        "manifest.json",
        "mobilefacenet_128.onnx",
    ]


def test_a_new_installation_replaces_the_old_one(tmp_path: Path) -> None:
    _install(tmp_path, scrfd_folder())

    _install(tmp_path, scrfd_folder(), facts=PackFacts(licence="for tests", threshold=0.5))

    assert PackStore(tmp_path).verify("mine").manifest.calibration.threshold == 0.5
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock")] == ["mine"]


def test_a_failed_installation_keeps_the_old_one(tmp_path: Path, archive_file: Callable[[bytes], Path]) -> None:
    before = _install(tmp_path / "models", scrfd_folder()).manifest

    with pytest.raises(InvalidPack):
        _install(tmp_path / "models", archive_file(b"no archive"))

    assert PackStore(tmp_path / "models").verify("mine").manifest == before


def test_licence_is_shown_and_has_to_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(LicenseNotAccepted, match="for tests"):
        _install(tmp_path, scrfd_folder(), accept_license=False)
    _assert_nothing_installed(tmp_path)


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        (None, "threshold"),
        (PackFacts(licence="x"), "threshold"),
        (PackFacts(threshold=0.5), "licence"),
        (PackFacts(licence=" ", threshold=0.5), "licence"),
        (PackFacts(licence="x", threshold=7), "between 0 and 2"),
    ],
)
def test_a_pack_without_manifest_needs_facts(tmp_path: Path, facts: PackFacts | None, missing: str) -> None:
    with pytest.raises(InvalidPack, match=missing):
        _install(tmp_path, scrfd_folder(), facts=facts)
    _assert_nothing_installed(tmp_path)


def test_facts_beside_a_manifest_are_refused_not_ignored(tmp_path: Path) -> None:
    pack = _install(tmp_path / "one", scrfd_folder())

    with pytest.raises(InvalidPack, match="manifest"):
        _install(tmp_path / "two", pack.folder, facts=_FACTS)


@pytest.mark.parametrize("name", ["../mine", "Mine", "", "a/b", "a" * 65, ".mine"])
def test_names_that_are_no_folder_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidPack, match="name"):
        install_pack(tmp_path / "models", name, source=scrfd_folder(), accept_license=True, facts=_FACTS)
    assert list(tmp_path.iterdir()) == []


def test_unknown_pack_without_source_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="buffalo_l"):
        install_pack(tmp_path, "nobody")


def test_default_pack_takes_no_source(tmp_path: Path) -> None:
    with pytest.raises(InvalidPack, match="dlib"):
        install_pack(tmp_path, "dlib", source=scrfd_folder())


def test_missing_source_is_named_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidPack, match="nowhere") as caught:
        _install(tmp_path, tmp_path / "deep" / "nowhere")
    assert "deep" not in str(caught.value)


@pytest.mark.parametrize("name", ["../det.onnx", "/det.onnx", "a/../../det.onnx", "..\\det.onnx"])
def test_archive_that_reaches_outside_is_refused(
    tmp_path: Path, archive_file: Callable[[bytes], Path], name: str
) -> None:
    with pytest.raises(InvalidPack, match="outside"):
        _install(tmp_path / "models", archive_file(_archive(_model_files() | {name: b"x"})))
    _assert_nothing_installed(tmp_path / "models")


def test_archive_with_a_symbolic_link_is_refused(tmp_path: Path, archive_file: Callable[[bytes], Path]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("det.onnx")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")

    with pytest.raises(InvalidPack, match="symbolic link"):
        _install(tmp_path / "models", archive_file(stream.getvalue()))


def test_archive_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, archive_file: Callable[[bytes], Path]) -> None:
    with pytest.raises(InvalidPack, match="would unpack to"):
        _install(tmp_path / "models", archive_file(_archive({"det.onnx": bytes(100 * 1024**2)})))
    _assert_nothing_installed(tmp_path / "models")


def test_archive_that_lies_about_its_sizes_is_refused(tmp_path: Path, archive_file: Callable[[bytes], Path]) -> None:
    data = bytearray(_archive({"det.onnx": bytes(100 * 1024**2)}))
    # The size unpacked, in the central directory (at 24) and in the local header (at 22).
    for at in (data.index(b"PK\x01\x02") + 24, data.index(b"PK\x03\x04") + 22):
        data[at : at + 4] = (1000).to_bytes(4, "little")

    with pytest.raises(InvalidPack):
        _install(tmp_path / "models", archive_file(bytes(data)))
    _assert_nothing_installed(tmp_path / "models")


def test_archive_of_too_many_files_is_refused(
    tmp_path: Path, archive_file: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MAX_ENTRIES", 3)

    with pytest.raises(InvalidPack, match="more than 3 files"):
        _install(tmp_path / "models", archive_file(_archive({f"{i}.onnx": b"" for i in range(4)})))


def test_same_name_twice_in_an_archive_is_refused(tmp_path: Path, archive_file: Callable[[bytes], Path]) -> None:
    with pytest.raises(InvalidPack, match="two files named"):
        _install(tmp_path / "models", archive_file(_archive(_model_files("a/") | _model_files("b/"))))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_archive_is_refused(tmp_path: Path, archive_file: Callable[[bytes], Path], share: float) -> None:
    data = _archive(_model_files())

    with pytest.raises(InvalidPack):
        _install(tmp_path / "models", archive_file(data[: int(len(data) * share)]))
    _assert_nothing_installed(tmp_path / "models")


def test_damaged_archive_is_refused(tmp_path: Path, archive_file: Callable[[bytes], Path]) -> None:
    data = bytearray(_archive(_model_files()))
    data[len(data) // 2] ^= 0xFF

    with pytest.raises(InvalidPack):
        _install(tmp_path / "models", archive_file(bytes(data)))
    _assert_nothing_installed(tmp_path / "models")


@pytest.mark.parametrize(("missing", "named"), [("det_500m.onnx", "detector"), ("mobilefacenet_128.onnx", "embedder")])
def test_pack_without_one_of_its_models_is_refused(tmp_path: Path, missing: str, named: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(scrfd_folder(), source)
    (source / missing).unlink()

    with pytest.raises(InvalidPack, match=rf"{named}.*there is none"):
        _install(tmp_path / "models", source)
    _assert_nothing_installed(tmp_path / "models")


def test_two_embedders_are_not_guessed_between(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in _model_files().items():
        (source / name).write_bytes(content)
    (source / "second.onnx").write_bytes((source / "mobilefacenet_128.onnx").read_bytes())

    with pytest.raises(InvalidPack, match=r"embedder.*2 of them"):
        _install(tmp_path / "models", source)


def test_files_that_are_no_graphs_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "det.onnx").write_bytes(b"\xff" * 100)

    with pytest.raises(InvalidPack, match=r"det\.onnx is not an ONNX model"):
        _install(tmp_path / "models", source)


def test_graph_whose_weights_lie_in_other_files_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(scrfd_folder() / "det_500m.onnx", source)
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3 * 112 * 112, 16])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../etc/passwd")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [weights],
    )
    (source / "emb.onnx").write_bytes(helper.make_model(graph).SerializeToString())

    with pytest.raises(InvalidPack, match="other files"):
        _install(tmp_path / "models", source)
    _assert_nothing_installed(tmp_path / "models")


def test_graphs_that_only_look_right_are_not_installed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(scrfd_folder() / "mobilefacenet_128.onnx", source)
    # Nine outputs and one picture in, as SCRFD has; but they are sums.
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1]) for i in range(9)]
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], [f"y{i}"], keepdims=0) for i in range(9)],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        outputs,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, source / "det.onnx")

    with pytest.raises(InvalidPack, match="detector"):
        _install(tmp_path / "models", source)
    _assert_nothing_installed(tmp_path / "models")


def test_manifest_with_another_digest_than_its_file_is_refused(tmp_path: Path) -> None:
    pack = _install(tmp_path / "one", scrfd_folder())
    manifest = json.loads((pack.folder / "manifest.json").read_text())
    manifest["files"]["detector"]["sha256"] = "0" * 64
    (pack.folder / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(InvalidPack, match=r"det_500m\.onnx"):
        _install(tmp_path / "two", pack.folder, facts=None)
    _assert_nothing_installed(tmp_path / "two")


def test_manifest_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    pack = _install(tmp_path / "one", scrfd_folder())
    pack.path("detector").unlink()

    with pytest.raises(InvalidPack, match=r"det_500m\.onnx is missing"):
        _install(tmp_path / "two", pack.folder, facts=None)


class _Server:
    """A web server of our own. `answer` writes the response to one GET."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                answer(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], _Server]]:
    servers: list[_Server] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> _Server:
        servers.append(_Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def _answer(
    body: bytes, *, announced: int | None = None, status: int = 200
) -> Callable[[BaseHTTPRequestHandler], None]:
    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(body)

    return write


def _know(monkeypatch: pytest.MonkeyPatch, archive: bytes | None) -> None:
    """Make `test_pack` a pack that can be fetched, its digest known where an archive is given."""
    digest = hashlib.sha256(archive).hexdigest() if archive is not None else None
    monkeypatch.setitem(catalog.KNOWN_PACKS, "test_pack", KnownPack("test_pack", "A known pack", 128, digest))


def _fetch_known(models_dir: Path, server: _Server, **options: object) -> InstalledPack:
    arguments = {"accept_license": True} | options
    return install_pack(models_dir, "test_pack", release_url=server.url, **arguments)


def test_known_pack_is_fetched_and_its_origin_recorded(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _archive(_model_files("test_pack/"))
    _know(monkeypatch, archive)
    server = serve(_answer(archive))
    progress: list[tuple[int, int | None]] = []

    pack = _fetch_known(tmp_path, server, progress=lambda received, total: progress.append((received, total)))

    assert server.asked == ["/test_pack.zip"]
    assert pack.manifest.title == "A known pack"
    assert hashlib.sha256(archive).hexdigest() in pack.manifest.source
    assert pack.manifest.licence == catalog.INSIGHTFACE_LICENCE
    assert progress[-1] == (len(archive), len(archive))
    assert PackStore(tmp_path).verify("test_pack")


def test_pack_of_unknown_digest_is_trusted_at_first_use_and_its_digest_recorded(
    tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _archive(_model_files())
    _know(monkeypatch, None)

    pack = _fetch_known(tmp_path, serve(_answer(archive)))

    assert hashlib.sha256(archive).hexdigest() in pack.manifest.source


def test_archive_of_an_address_is_installed(tmp_path: Path, serve) -> None:
    server = serve(_answer(_archive(_model_files())))

    pack = _install(tmp_path, f"{server.url.replace('//', '//me:secret@')}some.zip?token=secret")

    assert f"{server.url}some.zip (SHA-256" in pack.manifest.source
    assert "secret" not in pack.manifest.source


def test_nothing_is_fetched_before_the_licence_is_accepted(
    tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    _know(monkeypatch, None)
    server = serve(_answer(b""))

    with pytest.raises(LicenseNotAccepted, match="non-commercial research"):
        _fetch_known(tmp_path, server, accept_license=False)
    assert server.asked == []


def test_archive_of_another_digest_is_refused(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    _know(monkeypatch, b"what it should be")

    with pytest.raises(DownloadFailed, match="SHA-256"):
        _fetch_known(tmp_path, serve(_answer(_archive(_model_files()))))
    _assert_nothing_installed(tmp_path)


def test_interrupted_download_is_refused(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _archive(_model_files())
    _know(monkeypatch, None)

    with pytest.raises(DownloadFailed):
        _fetch_known(tmp_path, serve(_answer(archive[:100_000], announced=len(archive))))
    _assert_nothing_installed(tmp_path)


@pytest.mark.parametrize("status", [404, 403, 500])
def test_refusing_server_is_a_typed_error(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    _know(monkeypatch, None)

    with pytest.raises(DownloadFailed, match=str(status)):
        _fetch_known(tmp_path, serve(_answer(b"", status=status)))
    _assert_nothing_installed(tmp_path)


def test_server_that_is_not_there_is_a_typed_error(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    _know(monkeypatch, None)
    server = serve(_answer(b""))
    server.close()
    monkeypatch.setattr(server, "close", lambda: None)

    with pytest.raises(DownloadFailed, match="ConnectError"):
        _fetch_known(tmp_path, server)


def test_download_without_end_is_cut_off(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    _know(monkeypatch, None)
    monkeypatch.setattr(download, "ARCHIVE_MAX_BYTES", 1000)

    with pytest.raises(DownloadFailed, match="larger than 1000"):
        _fetch_known(tmp_path, serve(_answer(bytes(5000))))
    _assert_nothing_installed(tmp_path)


def test_page_in_place_of_an_archive_is_refused(tmp_path: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    _know(monkeypatch, None)

    with pytest.raises(InvalidPack):
        _fetch_known(tmp_path, serve(_answer(b"<html>please log in</html>")))
    _assert_nothing_installed(tmp_path)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/pack.zip", "http://example.org/pack.zip", "https://[bad/pack.zip", "https://a b/\0"]
)
def test_addresses_without_encryption_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed):
        _install(tmp_path, url)


def test_redirect_away_from_this_machine_without_encryption_is_refused(tmp_path: Path, serve) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://192.0.2.1/pack.zip")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with pytest.raises(DownloadFailed, match=r"https only, not from http://192\.0\.2\.1"):
        _install(tmp_path, f"{serve(redirect).url}pack.zip")
