"""The edge runs where the server is not installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = {
    "alembic",
    "flask",
    "flask_openapi3",
    "gunicorn",
    "pgvector",
    "procrastinate",
    "psycopg",
    "pydantic_settings",
    "redis",
    "sqlalchemy",
}
SHARED = ("app.edge", "app.vision", "app.errors", "app.deadline", "app.gallery_pages", "app.version")

# Everything of the edge, as a program of its own would import it.
LOADING = """
import importlib, json, pkgutil, sys
import app.edge
for found in pkgutil.walk_packages(app.edge.__path__, "app.edge."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(json.dumps(sorted(sys.modules)))
"""


def test_importing_the_edge_loads_nothing_of_the_server() -> None:
    run = subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    ours = [name for name in loaded if name.startswith("app.")]
    assert "app.edge.gallery" in ours
    assert [name for name in ours if not name.startswith(SHARED)] == []
    assert SERVER & {name.partition(".")[0] for name in loaded} == set()


def test_what_the_edge_and_the_server_share_has_one_version() -> None:
    server, edge = (pins(ROOT / name) for name in ("requirements.txt", "requirements-edge.txt"))
    assert {"numpy", "numkong", "boto3", "paho-mqtt", "httpx", "structlog"} <= set(edge)
    assert {name: edge[name] for name in edge if server.get(name, edge[name]) != edge[name]} == {}


def pins(file: Path) -> dict[str, str]:
    """Package → version; each line of a package ends in a backslash, for the digests that follow."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)(?: ;[^\\\n]*)? \\\n    --hash=", file.read_text(), flags=re.MULTILINE)
    assert len(found) == len(re.findall("==", file.read_text()))
    return dict(found)
