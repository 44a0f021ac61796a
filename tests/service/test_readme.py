"""The README's lines, as pasted."""

import json
import re
import subprocess

import pytest

from tests.service.running import ROOT

pytestmark = pytest.mark.service


def shell_block(beginning: str) -> str:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(beginning)]
    return found


def test_the_curl_lines_enrol_and_recognise_as_pasted(service, http):
    script = shell_block("KEY=").replace("http://127.0.0.1:8000", service.url)
    script = script.replace("storage/admin.key", str(service.storage / "admin.key"))
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    created, enrolled, told = (json.loads(line) for line in done.stdout.splitlines() if line)
    assert created["name"] == "people"
    assert enrolled["enrolled"] == 1
    shown = json.loads(re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])
    assert list(shown) == list(told)
    for key in (
        "status",
        "recognized_persons",
        "all_detected_matches",
        "best_match",
        "mode",
        "image",
        "model",
        "threshold",
    ):
        assert shown[key] == told[key], key
    http.delete("/v1/domains/people").raise_for_status()


def test_the_curl_line_compares_two_photos_as_pasted(service):
    photo = shell_block("KEY=").splitlines()[1]
    script = f"KEY={service.key}\n{photo}\n" + shell_block("curl").replace("http://127.0.0.1:8000", service.url)
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout)["verified"] is True, done.stderr


def test_a_clients_key_is_made_as_pasted(service, http):
    http.post("/v1/domains", json={"name": "people"}).raise_for_status()
    command = shell_block(".venv/bin/flask --app wsgi keys").strip().replace("--app wsgi", f"--app {ROOT}/wsgi")
    done = subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, env=service.env)
    assert done.returncode == 0, done.stderr
    key = re.search(r"fdx_\S+", done.stdout).group()
    headers = {"x-api-key": key}
    assert [item["name"] for item in http.get("/v1/domains", headers=headers).json()["items"]] == ["people"]
    assert http.get("/v1/domains/people/persons", headers=headers).json()["code"] == "scope_missing"
    http.delete("/v1/domains/people").raise_for_status()
