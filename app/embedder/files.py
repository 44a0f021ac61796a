"""Picture files of this machine as bytes."""

from pathlib import Path

from app.errors import EmptyUpload, FileNotFound, UploadTooLarge


def read_picture(image: str | Path | bytes, *, max_bytes: int) -> bytes:
    """The bytes of a picture that is given by its path or as bytes.

    Raises:
        FileNotFound: there is no such file, it is no ordinary one, or it cannot be read.
        EmptyUpload: it is empty.
        UploadTooLarge: it is longer than `max_bytes`; no more than that is read.
    """
    data = image if isinstance(image, bytes) else _read(Path(image), max_bytes + 1)
    if not data:
        raise EmptyUpload("The picture has no bytes.")
    if len(data) > max_bytes:
        raise UploadTooLarge(f"The picture is longer than {max_bytes} bytes.")
    return data


def _read(path: Path, most_bytes: int) -> bytes:
    # The name alone: where it lies is nobody's business whom the message reaches.
    try:
        if not path.exists():
            raise FileNotFound(f"There is no file {path.name!r}.")
        if not path.is_file():  # a device or a pipe might never end
            raise FileNotFound(f"{path.name!r} is not an ordinary file.")
        with path.open("rb") as stream:
            return stream.read(most_bytes)
    except OSError as error:
        raise FileNotFound(f"The file {path.name!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise FileNotFound("No file can have that name.") from error
