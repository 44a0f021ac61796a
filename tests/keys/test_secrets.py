import re

from app.keys.secrets import Secret, is_text_of, new_secret, prefix_of


def test_a_text_is_256_random_bits_behind_its_prefix():
    text, secret = new_secret()
    assert re.fullmatch(r"fdx_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", text)
    assert prefix_of(text) == secret.prefix
    assert len({new_secret()[0] for _ in range(1000)}) == 1000


def test_what_is_kept_holds_nothing_of_the_secret_part():
    text, secret = new_secret()
    _, _, unknown = text.split("_", 2)  # which may hold more of them
    assert unknown not in repr(secret)
    assert len(secret.digest) == 32


def test_only_the_whole_text_fits():
    text, secret = new_secret()
    other, _ = new_secret()
    assert is_text_of(text, secret)
    assert not is_text_of(other, secret)
    assert not is_text_of(text[:-1] + ("A" if text[-1] != "A" else "B"), secret)
    assert not is_text_of(text, None)
    assert not is_text_of(text, Secret(secret.prefix, bytes(32)))


def test_what_has_not_the_form_of_a_key_has_no_prefix():
    text, _ = new_secret()
    for broken in ("", "fdx_", text[:-1], text + "x", text.upper(), f" {text}", f"{text}\n", "fdx_žž_" + "a" * 43):
        assert prefix_of(broken) is None
