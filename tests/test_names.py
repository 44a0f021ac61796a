import pytest

from app.errors import InvalidName
from app.names import NAME_MAX_CHARS, clean_name


@pytest.mark.parametrize(
    "name", ["Škoda", "../x", "..", "a/b", "😀", "O'Brien; DROP TABLE persons", "%2F", "a\\b", "x" * NAME_MAX_CHARS]
)
def test_any_text_is_a_name(name):
    assert clean_name(name, "label") == name


def test_both_spellings_of_a_letter_are_one_name():
    assert clean_name("S\u030ckoda", "label") == clean_name("\u0160koda", "label")


def test_white_space_around_a_name_is_dropped():
    assert clean_name("  Ana Novak\n", "label") == "Ana Novak"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "a\x00b",
        "a\nb",
        "\ud800",
        "x" * (NAME_MAX_CHARS + 1),
        "x" * 300,
        "Jos\ufffd",
        "a" + "\u0315" * 100_000 + "\u0300" * 100_000,
    ],
)
def test_what_no_person_is_called_is_refused(name):
    with pytest.raises(InvalidName, match="label"):
        clean_name(name, "label")
