"""Pictures that something has happened to: seeded, so that each can be made again."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests import pictures

_MAGIC = {
    "jpg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "webp": b"RIFF\x00\x00\x00\x00WEBP",
    "bmp": b"BM",
    "gif": b"GIF89a",
}
_SIZES = (0, 1, 2, 255, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A file under a name whose ending may be wrong as well."""

    name: str
    data: bytes
    mutation: str


def mutants(count: int, seed: int) -> list[Mutant]:
    """So many, of all kinds."""
    rng = np.random.default_rng(seed)
    sound = _sound()
    made = []
    for number in range(count):
        ending, data = sound[number % len(sound)]
        mutation = _MUTATIONS[number // len(sound) % len(_MUTATIONS)]
        name_ending = str(rng.choice(list(_MAGIC))) if mutation is rename else ending
        made.append(Mutant(f"{number}.{name_ending}", mutation(data, ending, rng), mutation.__name__))
    return made


def _sound() -> list[tuple[str, bytes]]:
    """Files of all formats and kinds that are accepted, each with one face."""
    face = Image.open(pictures.group_photo()).convert("RGB").crop((410, 258, 610, 458))
    turned = Image.Exif()
    turned[0x0112] = 6
    grey16 = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    return [
        ("jpg", pictures.encode(face)),
        ("jpg", pictures.encode(face, progressive=True, exif=turned)),
        ("jpg", pictures.encode(face.convert("CMYK"))),
        ("png", pictures.encode(face, "PNG")),
        ("png", pictures.encode(face.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")),
        ("png", pictures.encode(grey16, "PNG")),
        ("webp", pictures.encode(face, "WEBP")),
        ("webp", pictures.encode(face.convert("RGBA"), "WEBP", lossless=True)),
        ("bmp", pictures.encode(face, "BMP")),
        ("bmp", pictures.encode(face.convert("P"), "BMP")),
    ]


def flip_bits(data: bytes, _ending: str, rng: np.random.Generator) -> bytes:
    """A few bits anywhere."""
    return _flipped(data, len(data), rng)


def flip_header_bits(data: bytes, _ending: str, rng: np.random.Generator) -> bytes:
    """A few bits where the file says what it is."""
    return _flipped(data, min(len(data), 200), rng)


def truncate(data: bytes, _ending: str, rng: np.random.Generator) -> bytes:
    """The rest has got lost."""
    return data[: int(rng.integers(1, len(data)))]


def lie(data: bytes, ending: str, rng: np.random.Generator) -> bytes:
    """The header tells of another size."""
    width, height = (int(rng.choice(_SIZES)) for _ in range(2))
    return _LIES[ending](bytearray(data), width, height)


def rename(data: bytes, ending: str, rng: np.random.Generator) -> bytes:
    """It begins as a file of another format does, or only its name is another's."""
    other = str(rng.choice(list(_MAGIC)))
    return _MAGIC[other] + data[len(_MAGIC[ending]) :] if rng.integers(2) else data


def blank(data: bytes, _ending: str, rng: np.random.Generator) -> bytes:
    """A block was never written."""
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 2048))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def splice(data: bytes, _ending: str, rng: np.random.Generator) -> bytes:
    """A part of the file stands in it twice."""
    start, end, place = sorted(int(place) for place in rng.integers(len(data), size=3))
    return data[:place] + data[start:end] + data[place:]


_MUTATIONS: list[Callable[[bytes, str, np.random.Generator], bytes]] = [
    flip_bits,
    flip_header_bits,
    truncate,
    lie,
    rename,
    blank,
    splice,
]


def _flipped(data: bytes, among: int, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for bit in rng.integers(among * 8, size=int(rng.integers(1, 33))):
        changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def _lying_jpeg(data: bytearray, width: int, height: int) -> bytes:
    place = next(place for place in range(len(data)) if data[place] == 0xFF and data[place + 1] in (0xC0, 0xC2))
    data[place + 5 : place + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(data)


def _lying_png(data: bytearray, width: int, height: int) -> bytes:
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))  # a lie that the checksum bears out
    return bytes(data)


def _lying_webp(data: bytearray, width: int, height: int) -> bytes:
    if data[12:16] == b"VP8L":
        packed = (width & 0x3FFF) | (height & 0x3FFF) << 14
        data[21:25] = struct.pack("<I", packed | data[24] >> 4 << 28)
    else:
        data[26:30] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(data)


def _lying_bmp(data: bytearray, width: int, height: int) -> bytes:
    data[18:26] = struct.pack("<II", width, height)
    return bytes(data)


_LIES: dict[str, Callable[[bytearray, int, int], bytes]] = {
    "jpg": _lying_jpeg,
    "png": _lying_png,
    "webp": _lying_webp,
    "bmp": _lying_bmp,
}
