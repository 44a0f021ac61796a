from app.streaming.rates import Budget


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_second_has_so_much_and_what_is_left_over_is_not_saved_up():
    clock = Clock()
    budget = Budget(3.0, clock)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.34
    assert [budget.take(), budget.take()] == [True, False]
    clock.now_s += 1000
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def test_less_than_one_a_second_is_one_after_a_while():
    clock = Clock()
    budget = Budget(0.5, clock)
    assert [budget.take(), budget.take()] == [True, False]
    clock.now_s += 2.0
    assert budget.take()


def test_what_was_used_beyond_it_has_to_be_waited_for():
    clock = Clock()
    budget = Budget(100.0, clock)
    assert budget.owe(100) == 0.0
    assert budget.owe(50) == 0.5
    clock.now_s += 0.25
    assert budget.owe(0) == 0.25
