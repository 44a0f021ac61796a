"""Small pictures: the face in their middle, as a viewer shows it, and nothing of the file they were made of but pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from app.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from app.vision.faces import Box
from app.vision.thumbnails import SIDE_PX, make_thumbnail
from tests.pictures import MAX_PIXELS, encode

GREY, RED = (128, 128, 128), (220, 30, 30)


def with_face(size: tuple[int, int], box: Box, **options) -> bytes:
    """A grey picture with a red face."""
    image = Image.new("RGB", size, GREY)
    image.paste(RED, (box.x, box.y, box.x + box.w, box.y + box.h))
    return encode(image, "PNG", **options)


def made(data: bytes, box: Box) -> Image.Image:
    image = Image.open(io.BytesIO(make_thumbnail(data, box, max_pixels=MAX_PIXELS)))
    assert (image.format, image.size[0]) == ("WEBP", image.size[1])
    return image


def red_share(image: Image.Image) -> float:
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return float(((pixels[..., 0] - pixels[..., 1]) > 100).mean())


@pytest.mark.parametrize(
    "box", [Box(500, 300, 100, 100), Box(0, 0, 100, 80), Box(900, 700, 100, 100), Box(450, 0, 80, 100)]
)
def test_the_face_is_seen_with_some_room_around_it(box: Box) -> None:
    image = made(with_face((1000, 800), box), box)
    assert image.size == (SIDE_PX, SIDE_PX)
    whole = box.w * box.h / (1.6 * max(box.w, box.h)) ** 2
    assert red_share(image) == pytest.approx(whole, abs=0.03)


def test_the_box_is_that_of_the_upright_picture() -> None:
    stored = Image.new("RGB", (800, 600), GREY)
    stored.paste(RED, (100, 50, 200, 150))
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by a quarter, to 600 x 800: x becomes the distance from the lower edge
    upright = Box(600 - 150, 100, 100, 100)
    assert red_share(made(encode(stored, "PNG", exif=exif), upright)) > 0.3


def test_nothing_of_the_file_but_pixels_is_in_it() -> None:
    exif = Image.Exif()
    exif[0x010E] = "at home, 46.0569 N 14.5058 E"
    box = Box(100, 100, 100, 100)
    data = with_face((400, 400), box, exif=exif)
    assert b"at home" in data
    small = make_thumbnail(data, box, max_pixels=MAX_PIXELS)
    assert b"at home" not in small
    assert not Image.open(io.BytesIO(small)).getexif()
    assert len(small) < 6_000


@pytest.mark.parametrize(("size", "side"), [((40, 40), 32), ((1000, 30), 30), ((1, 1), 1)])
def test_what_is_small_is_not_enlarged(size: tuple[int, int], side: int) -> None:
    box = Box(0, 0, 20, 20)
    assert made(encode(Image.new("RGB", size), "PNG"), box).size == (side, side)


@pytest.mark.parametrize(
    "box", [Box(-50, -50, 10, 10), Box(5000, 5000, 10, 10), Box(0, 0, 16_000_000, 1), Box(0, 0, 0, 0)]
)
def test_a_box_from_elsewhere_shows_something_of_the_picture(box: Box) -> None:
    assert made(encode(Image.new("RGB", (64, 48)), "PNG"), box).size[0] <= 48


def test_what_is_no_picture_is_the_decoders_error() -> None:
    box = Box(0, 0, 10, 10)
    for data, error in ((b"nonsense", InvalidImage), (encode(Image.new("RGB", (8, 8)), "GIF"), UnsupportedImage)):
        with pytest.raises(error):
            make_thumbnail(data, box, max_pixels=MAX_PIXELS)
    with pytest.raises(ImageTooLarge):
        make_thumbnail(encode(Image.new("RGB", (8, 8)), "PNG"), box, max_pixels=63)
