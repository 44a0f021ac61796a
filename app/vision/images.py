"""The one decoder: bytes of a picture file to the pixels that a viewer shows."""

import re
import warnings
from io import BytesIO
from itertools import islice

import cv2
import numpy as np
from PIL import Image

from app.errors import ImageTooLarge, UnsupportedImage
from app.vision.faces import UInt8Array
from app.vision.formats import refusal
from app.vision.memory import has_room_for, is_lack_of_memory

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_EXIF_ORIENTATION = 0x0112
_JPEG_END = b"\xff\xd9"
# Markers of a JPEG's segments: tables, scans, application data, comments. Cameras write some dozens, and a progressive file
# about ten scans; a small file with thousands of them keeps a decoder busy for minutes.
_SCAN_MARKER = b"\xff\xda"
_SEGMENT_MARKER = re.compile(rb"\xff[\xc4\xda\xdb\xdd\xe0-\xef\xfe]")
_MAX_SCANS, _MAX_SEGMENTS = 100, 2_000
_BMP_COMPRESSION = slice(30, 34)
_STRIP_ROWS = 256
# The most that any format takes, measured (docs/benchmarks.md): WebP, with its canvases and Pillow's copy.
_MOST_BYTES_A_PIXEL = 20

# Pillow's own limit is a constant of its own choosing; `decode_image` checks the caller's before it decodes anything.
Image.MAX_IMAGE_PIXELS = None


def decode_image(data: bytes, *, max_pixels: int) -> UInt8Array:
    """Decode a JPEG, PNG, WebP or BMP file.

    EXIF orientation is applied, transparency is laid on white, 16 bits become 8, CMYK, grey and palette become colour,
    and of an animation the first picture is taken.

    Args:
        data: the file's bytes; nothing about them is trusted.
        max_pixels: largest width times height; compared with the header before any pixel is decoded.

    Returns:
        uint8, (H, W, 3), BGR, contiguous.

    Raises:
        UnsupportedImage: a picture of another format.
        ImageTooLarge: more pixels than `max_pixels`.
        InvalidImage: not a picture, or a damaged or truncated one.
        MemoryError: there is not enough memory for it.
    """
    _refuse_costly(data)
    width, height = _webp_canvas(data)
    _check_size(width, height, max_pixels)
    try:
        # Pillow warns of damage that it can pass over, such as in EXIF: nobody is there to read it.
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data), formats=ACCEPTED_FORMATS) as image:
            width, height = image.size
            _check_size(width, height, max_pixels)
            return _upright(_pixels(image, data), _orientation(image))
    except ImageTooLarge:
        raise
    except Exception as error:  # Pillow lets struct.error, zlib.error, KeyError and others through for damaged files
        # libjpeg and libwebp make no difference between a damaged file and a lack of memory.
        if is_lack_of_memory(error) or not has_room_for(width * height * _MOST_BYTES_A_PIXEL):
            raise MemoryError from error
        raise refusal(data) from error


def _refuse_costly(data: bytes) -> None:
    """Refuse small files that take minutes to decode, which no picture of a camera or a program does."""
    if data.startswith(b"\xff\xd8"):
        markers = [found[0] for found in islice(_SEGMENT_MARKER.finditer(data), _MAX_SEGMENTS + 1)]
        if len(markers) > _MAX_SEGMENTS or markers.count(_SCAN_MARKER) > _MAX_SCANS:
            raise UnsupportedImage("The file is a JPEG with more scans or segments than a picture has")
    elif data.startswith(b"BM") and int.from_bytes(data[_BMP_COMPRESSION], "little") in (1, 2):
        raise UnsupportedImage("The file is a run-length compressed BMP, which is not accepted")


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file; (0, 0) for anything else.

    Pillow makes room for the whole picture when it opens such a file, before its size can be asked for.

    Source: RFC 9649, 2.5 to 2.7.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"The picture has {width} x {height} pixels; at most {max_pixels} pixels are accepted")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none or it cannot be read: a viewer shows such a picture as stored."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a damaged EXIF block is no reason to refuse a picture that can be seen
        return 1
    return value if isinstance(value, int) else 1


def _upright(image_bgr: UInt8Array, orientation: int) -> UInt8Array:
    """Turn and mirror the stored picture so that it stands upright. Source: EXIF 2.3, 4.6.4."""
    if orientation in (5, 6, 7, 8):
        image_bgr = np.asarray(cv2.transpose(image_bgr), np.uint8)
    # What is still to be mirrored: 1 left and right, 0 top and bottom, -1 both.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image_bgr if flip is None else np.asarray(cv2.flip(image_bgr, flip), np.uint8)


def _pixels(image: Image.Image, data: bytes) -> UInt8Array:
    """The picture as stored, BGR, opaque."""
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and data.endswith(_JPEG_END):
        fast = _ordinary_jpeg(image, data)
        if fast is not None:
            return fast
    if image.mode.startswith("I;16"):
        return _to_bgr((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return _on_white(image)
    return _to_bgr(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))


def _ordinary_jpeg(image: Image.Image, data: bytes) -> UInt8Array | None:
    """Decode with OpenCV, in a third of the time that Pillow and the copy out of it take; None where it cannot.

    Both use libjpeg-turbo and give the same pixels, but OpenCV fills what is missing of a truncated file with grey. Hence
    only files that have their end are decoded here.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != (image.height, image.width, 3):
        return None
    return np.asarray(pixels, np.uint8)


def _on_white(image: Image.Image) -> UInt8Array:
    """Transparency laid on white, in strips: at full size, the copies in between would take several times the picture."""
    image.load()
    opaque = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        strip = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque[top:bottom] = _to_bgr(np.asarray(Image.alpha_composite(white, strip).convert("RGB")))
    return opaque


def _to_bgr(pixels: UInt8Array) -> UInt8Array:
    """Grey (H, W) or RGB (H, W, 3) to BGR."""
    code = cv2.COLOR_GRAY2BGR if pixels.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)
