import pytest

from app.datasets.labels import FolderLayout, label_of
from app.datasets.names import picture_identity
from app.errors import InvalidName


def labels(*paths: str) -> list[str | None]:
    layout = FolderLayout()
    for path in paths:
        layout.see(path)
    return [label_of(path, layout.root) for path in paths]


@pytest.mark.parametrize(
    "path",
    [
        "Alice/Alice1.jpg",
        "db/Alice/Alice1.jpg",
        "/srv/faces/Alice/Alice1.jpg",
        "C:\\faces\\Alice\\Alice1.jpg",
        "..\\faces/Alice\\Alice1.jpg",
        "s3://bucket/faces/Alice/1.png",
        "db/Alice//1.jpg",
        "Alice1.jpg",
        "Alice_0001.jpg",
        "./Alice - 12.jpeg",
        "Alice.jpg",
    ],
)
def test_the_person_is_the_folder_or_the_name_without_number(path):
    assert labels(path) == ["Alice"]


def test_a_folder_that_holds_everybody_is_nobody():
    assert labels("db/Alice1.jpg", "db/Alice2.jpg", "db/Bob1.jpg") == ["Alice", "Alice", "Bob"]
    assert labels("db/Alice/1.jpg", "db/Bob/1.jpg", "db/Carol7.jpg") == ["Alice", "Bob", "Carol"]


def test_one_persons_numbered_pictures_keep_their_folder():
    assert labels("db/Alice/Alice1.jpg", "db/Alice/Alice2.jpg") == ["Alice", "Alice"]
    assert labels("db/Alice/1.jpg", "db/Alice/2.jpg") == ["Alice", "Alice"]


def test_pictures_of_two_trees_have_no_folder_in_common():
    assert labels("/a/Alice/1.jpg", "/b/Bob/1.jpg") == ["Alice", "Bob"]


def test_a_name_of_digits_only_is_nobody():
    assert labels("7.jpg") == [None]


@pytest.mark.parametrize("path", ["db/A\tB/1.jpg", "db/\x7f/1.jpg", "db/\udcff/1.jpg", "x" * 201 + "/1.jpg"])
def test_a_name_that_cannot_be_kept_is_refused(path):
    with pytest.raises(InvalidName):
        labels(path)


def test_names_are_kept_as_everywhere():
    assert labels("db/S\u030carec /1.jpg") == ["Šarec"]


def test_a_picture_of_ours_tells_its_person_again():
    for label in ("Ana", "Agent 007", "Д. К.", "O'Neill, T. (2)"):
        assert labels(*(picture_identity(label, number) for number in (1, 2, 30))) == [label] * 3
    assert labels(picture_identity("a/b\\c", 1))[0] not in ("c", "b", None)
