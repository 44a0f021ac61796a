"""What `gunicorn.conf.py` takes for granted of Gunicorn."""

from gunicorn.http import parser


def test_the_limit_of_what_is_read_after_an_answer_is_there_to_be_set():
    """A name with an underscore, which another version may not have: to set it would then do nothing."""
    assert isinstance(parser._DRAIN_MAX_BYTES, int)
    assert "_DRAIN_MAX_BYTES" in parser.Parser.finish_body.__code__.co_names
