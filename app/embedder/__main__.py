"""`python -m app.embedder PHOTO`: what a worker makes of one picture, without the server.

Standard output is one JSON document: the faces and exit code 0, or `{"error": {"code", "message"}}` and exit code 1. The log,
and what a native crash says, go to standard error.
"""

import argparse
import faulthandler
import json
import sys
from typing import Any, NoReturn

from app.config import SettingsError, load_settings
from app.deadline import Deadline
from app.embedder.answer import embeddings_to_json
from app.embedder.files import read_picture
from app.errors import FacedexError, InvalidRequest
from app.logs import configure_logging
from app.vision.faces import Effort


class _Parser(argparse.ArgumentParser):
    """A wrong command line is an error like the others."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{message}; see --help")


def main() -> int:
    """Run the command; the exit code."""
    faulthandler.enable()
    try:
        answer, code = _analyze(_parser().parse_args()), 0
    except SettingsError as error:
        answer, code = _error("invalid_settings", str(error)), 1
    except FacedexError as error:
        answer, code = _error(error.code, str(error)), 1
    print(json.dumps(answer, ensure_ascii=False))  # noqa: T201
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m app.embedder",
        description="Find and embed the faces of PHOTO as a worker of the pool does, without the server.",
        epilog="Prints one JSON document: the faces, with exit code 0, or an error, with exit code 1. The log goes to"
        " standard error. STORAGE_DIR says where the model packs are.",
    )
    parser.add_argument("photo", metavar="PHOTO", help="a JPEG, PNG, WebP or BMP file")
    parser.add_argument("--model", metavar="NAME", help="an installed model pack (default: the active one)")
    parser.add_argument(
        "--thorough", action="store_true", help="where the usual look finds no face, try all other strategies"
    )
    return parser


def _analyze(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings()
    configure_logging(settings)
    image = read_picture(arguments.photo, max_bytes=settings.max_upload_bytes)
    # Only here: --help and a missing file need no model runtime.
    from app.embedder.local import LocalEmbedder

    embedder = LocalEmbedder(settings, arguments.model)
    effort: Effort = "thorough" if arguments.thorough else "usual"
    analysis = embedder.analyze(image, deadline=Deadline.after(settings.request_deadline_s), effort=effort)
    return embeddings_to_json(analysis) | ({"strategy": analysis.strategy} if arguments.thorough else {})


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


if __name__ == "__main__":
    sys.exit(main())
