"""The player of the machines: a seed is one run, and a failure is shrunk and says how to repeat it."""

import pytest
from player import Failed, Machine, play, rule


class Account(Machine):
    """Fails when more than 100 was paid in since it was opened for the last time."""

    diary: list[str]

    @rule(owner=("anna", "otto"))
    def begin(self, owner: str) -> None:
        self.diary = [owner]
        self.balance: int | None = None

    @rule(lambda self: self.balance is None)
    def open(self) -> None:
        self.diary.append("open")
        self.balance = 0

    @rule(lambda self: self.balance is not None, amount=(1, 60, 2))
    def pay_in(self, amount: int) -> None:
        self.diary.append(f"pay in {amount}")
        self.balance = (self.balance or 0) + amount

    @rule()
    def close(self) -> None:
        self.diary.append("close")
        self.balance = None

    def check(self) -> None:
        assert self.balance is None or self.balance <= 100, "too rich"


class Diary(Account):
    """Never fails, and keeps what was done."""

    kept: list[list[str]]

    def check(self) -> None:
        """Any balance will do."""

    def finish(self) -> None:
        self.kept.append(self.diary)


def played(seed: int) -> list[list[str]]:
    Diary.kept = []
    play(Diary, seed, 1000)
    return Diary.kept


def test_a_seed_is_always_the_same_runs_and_another_seed_is_others() -> None:
    assert played(3) == played(3)
    assert played(3) != played(4)


def test_so_many_steps_are_played_at_least() -> None:
    assert 1000 <= sum(map(len, played(3))) <= 1101


def test_a_failure_is_shrunk_to_the_steps_it_takes_and_names_its_seed() -> None:
    with pytest.raises(Failed) as failed:
        play(Account, 5, 10_000)
    text = str(failed.value)
    assert "Account, seed 5" in text
    steps = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert steps == ["begin(owner='anna')", "open()", "pay_in(amount=60)", "pay_in(amount=60)"]
    assert "python -m pytest tests/simulation --first-seed 5 -k Account" in text
    assert "too rich" in str(failed.value.__cause__)
