"""A camera that a browser believes in: pictures of one person, one after the other, again and again."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

_SIZE = (640, 480)
_FRAMES_EACH = 20  # of thirty a second


def film(path: Path, pictures: Sequence[Path]) -> Path:
    """Write a motion JPEG of these pictures, each in the middle of a grey wall.

    Source of the form: Chromium's `media/capture/video/file_video_capture_device.cc`: JPEG files without anything between.
    """
    with path.open("wb") as out:
        for picture in pictures:
            frame = Image.new("RGB", _SIZE, (128, 128, 128))
            with Image.open(picture) as photo:
                frame.paste(photo.convert("RGB").resize((_SIZE[1], _SIZE[1])), ((_SIZE[0] - _SIZE[1]) // 2, 0))
            encoded = io.BytesIO()
            frame.save(encoded, "JPEG", quality=92, subsampling="4:2:0")
            out.write(encoded.getvalue() * _FRAMES_EACH)
    return path


def flags(path: Path) -> tuple[str, ...]:
    """What makes Chromium take that film for its camera, and allow it without asking."""
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={path}",
    )
