"""`flask recognize DOMAIN PHOTO`."""

import json
import math
import time
import uuid
from pathlib import Path

import click
import structlog

from app.api.wiring import services
from app.cli.common import command_body
from app.deadline import Deadline
from app.names import clean_name
from app.recognition.answer import build_answer
from app.recognition.events import note_recognition
from app.recognition.service import RecognitionRequest


@click.command("recognize")
@click.argument("domain")
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--top-k", type=click.IntRange(1, 100), default=5, show_default=True, help="Candidates per face.")
@click.option("--threshold", type=click.FloatRange(0, 2, min_open=True), help="Cosine distance [default: the pack's].")
@click.option("--json", "as_json", is_flag=True, help="Print the answer that the HTTP API would give.")
@command_body
def recognize(domain: str, photo: Path, top_k: int, threshold: float | None, as_json: bool) -> None:
    """Name the faces of PHOTO from the gallery of DOMAIN."""
    if threshold is not None and not math.isfinite(threshold):
        raise click.BadParameter("is not a number", param_hint="--threshold")
    started_s = time.monotonic()
    request_id = uuid.uuid4().hex
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        result = services().recognition.recognize(
            RecognitionRequest(
                image=photo.read_bytes(),
                domain=clean_name(domain, "domain"),
                top_k=top_k,
                threshold=threshold,
                deadline=Deadline.after(services().settings.request_deadline_s),
                request_id=request_id,
                client="recognize",
            ),
            lambda found: note_recognition(services().audit, found),
        )
    answer = build_answer(result, request_id=request_id, elapsed_s=time.monotonic() - started_s)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    click.echo(f"{len(answer['faces'])} faces in {answer['elapsed_time']:.3f} s ({answer['mode']}, {answer['model']})")
    for face in answer["faces"]:
        box = face["box"]
        click.echo(f"  at {box['x']},{box['y']} {box['w']}x{box['h']}: {face['decision']}")
        for candidate in face["candidates"]:
            click.echo(
                f"    {candidate['person']['name']}  distance {candidate['distance']:.4f}"
                f"  confidence {candidate['confidence']:.1f} %"
            )
