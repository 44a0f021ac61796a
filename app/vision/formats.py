"""What picture files begin with. Decodes nothing, so that the web process may import it."""

from typing import Final

from app.errors import InvalidImage, UnsupportedImage

HEAD_BYTES: Final = 12
"""So many bytes of a file tell which of the accepted formats it has."""

_ACCEPTED_TEXT: Final = "accepted are JPEG, PNG, WebP and BMP"
_JPEG, _PNG, _RIFF, _WEBP, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP", b"BM"
_SUFFIXES: Final = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/bmp": ".bmp"}
# What other picture files begin with, so that their sender reads "not accepted" and not "damaged".
_OTHER_FORMATS: Final = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"%PDF", "PDF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
)


def media_type(head: bytes) -> str | None:
    """The media type of a file of an accepted format, by its first `HEAD_BYTES`; None for anything else."""
    if head.startswith(_JPEG):
        return "image/jpeg"
    if head.startswith(_PNG):
        return "image/png"
    if head.startswith(_RIFF) and head[8:12] == _WEBP:
        return "image/webp"
    return "image/bmp" if head.startswith(_BMP) else None


def suffix_of(head: bytes) -> str:
    """The ending of a file's name that goes with its first bytes, such as `.jpg`; `.bin` for what is no accepted picture."""
    return _SUFFIXES.get(media_type(head) or "", ".bin")


def check_header(data: bytes) -> None:
    """Refuse what cannot be a picture by its first bytes. What passes may still be damaged.

    Raises:
        UnsupportedImage: a picture of another format.
        InvalidImage: no picture.
    """
    if media_type(data) is None:
        raise refusal(data)


def refusal(data: bytes) -> InvalidImage | UnsupportedImage:
    """Why a file that cannot be decoded is refused."""
    for offset, signature, name in _OTHER_FORMATS:
        if data.startswith(signature, offset):
            return UnsupportedImage(f"The file is a {name} picture; {_ACCEPTED_TEXT}")
    return InvalidImage(f"The file is not a picture, or is damaged or truncated; {_ACCEPTED_TEXT}")
