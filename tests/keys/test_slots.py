import pytest

from app.config import parse_settings
from app.errors import TooManyRequests
from app.keys.slots import Slots, places_of_a_key


def test_a_key_has_so_many_places_and_others_have_theirs():
    slots = Slots(2)
    slots.take("a")
    slots.take("a")
    with pytest.raises(TooManyRequests):
        slots.take("a")
    slots.take("b")
    slots.release("a")
    slots.take("a")


def test_what_was_refused_takes_no_place():
    slots = Slots(1)
    slots.take("a")
    for _ in range(3):
        with pytest.raises(TooManyRequests):
            slots.take("a")
    slots.release("a")
    assert slots.in_use == 0


@pytest.mark.parametrize(("threads", "setting", "places"), [(42, None, 31), (1, None, 1), (2, None, 1), (42, 5, 5)])
def test_places_are_three_quarters_of_the_threads_unless_set(threads, setting, places):
    assert places_of_a_key(parse_settings(web_threads=threads, key_max_concurrent=setting)) == places
