import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import InvalidPack
from app.vision.packs import InstalledPack
from app.vision.runtime import open_session

_ROOT = Path(__file__).resolve().parents[2]


def test_what_is_no_graph_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "embedder.onnx").write_bytes(b"no graph")

    with pytest.raises(InvalidPack, match=r"embedder\.onnx") as caught:
        open_session(tmp_path / "embedder.onnx")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["dlib", "scrfd"])
def test_loading_a_pack_leaves_nothing_in_the_home_folder(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    # Left to itself, onnxruntime keeps there what it has yet to report.
    pack: InstalledPack = request.getfixturevalue(f"{kind}_pack")
    command = (
        "import sys, pathlib; from app.vision.packs import PackStore; from app.vision.engine import load_engine; "
        "folder = pathlib.Path(sys.argv[1]); load_engine(PackStore(folder.parent).get(folder.name))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}

    subprocess.run([sys.executable, "-c", command, str(pack.folder)], cwd=_ROOT, env=environment, check=True)

    assert list(tmp_path.iterdir()) == []
