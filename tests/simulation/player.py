"""Plays machines: possible steps, in any order, and their invariants.

    class Counter(Machine):
        begin = Rule(...)                      # made by @rule: always the first step

        @rule(when=lambda self: self.open, by=(1, 2, 10))
        def add(self, by: int) -> None: ...

A rule is a step that may happen: `when` says whether it can now, and the other keywords the values from which its
arguments are chosen, whatever has happened before. A run takes some of the rules, and plays them at random. All of it
follows from a seed, so that a seed can be played again. What fails is shrunk to the steps that it takes: steps are
left out, and arguments are made the first of their values, as long as it fails in the same place.
"""

import traceback
from collections.abc import Callable, Generator, Sequence
from random import Random
from time import monotonic
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

#: Steps of a run.
_LENGTHS: Final = range(20, 101)

#: How many of the rules a run takes: some that are left out give room for others to happen often.
_SHARES: Final = (0.3, 0.5, 0.7, 0.9, 1.0)

#: How often a rule is looked for that can happen now, until a run ends for want of one.
_TRIES: Final = 100

#: Seconds that are spent on shrinking.
_PATIENCE: Final = 30.0


class Rule(NamedTuple):
    """A step that may happen. Made by `rule`."""

    act: Callable[..., None]
    when: Callable[[Any], object]
    choices: dict[str, Sequence[Any]]


def rule(
    when: Callable[[Any], object] = lambda machine: True, /, **choices: Sequence[Any]
) -> Callable[[Callable[..., None]], Rule]:
    """Make a method a rule: it may be called when `when` is true of the machine, with one of each of these values."""
    return lambda act: Rule(act, when, choices)


class Machine:
    """Something that can be played: a rule `begin`, other rules, and what must hold.

    Attributes:
        rules: By their names, `begin` among them; those of the classes above, too.
    """

    begin: ClassVar[Rule]
    rules: ClassVar[dict[str, Rule]]

    def __init_subclass__(cls) -> None:
        named = {name: rule for above in reversed(cls.__mro__) for name, rule in vars(above).items()}
        cls.rules = {name: rule for name, rule in named.items() if isinstance(rule, Rule)}

    def check(self) -> None:
        """What must hold after each step."""

    def finish(self) -> None:
        """The end of a run, and what must hold then."""


class Step(NamedTuple):
    """A rule, by its name, and its arguments."""

    rule: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.rule}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


Script: TypeAlias = list[Step]

#: Gives scripts to be tried, and is sent whether the last one failed likewise.
Tries: TypeAlias = Generator[Script, bool, None]


class Failed(AssertionError):
    """A run in which something did not hold; its cause is the error, met on the shortest way."""


def play(kind: type[Machine], seed: int, steps: int) -> None:
    """Play runs until they have so many steps.

    Raises:
        Failed: Something did not hold.
    """
    played = runs = 0
    while played < steps:
        script: Script = []
        try:
            _improvise(kind, Random(f"{kind.__name__} {seed} {runs}"), script)
        except Exception as error:
            shortest, cause = _shrunk(kind, script, error)
            lines = "".join(f"\n    {step}" for step in shortest)
            raise Failed(
                f"{kind.__name__}, seed {seed}, after {played + len(script)} steps of it: {cause!r}, after{lines}\n"
                f"Again: python -m pytest tests/simulation --first-seed {seed} -k {kind.__name__}"
            ) from cause
        played += len(script)
        runs += 1


# ---- private --------------------------------------------------------------------------------------------------------


def _improvise(kind: type[Machine], random: Random, script: Script) -> None:
    """One run; the steps are noted as they are taken."""

    def take(name: str) -> None:
        step = Step(name, {key: random.choice(values) for key, values in kind.rules[name].choices.items()})
        script.append(step)
        kind.rules[name].act(machine, **step.arguments)
        machine.check()

    machine = kind()
    take("begin")
    share = random.choice(_SHARES)
    taken = [name for name in kind.rules if name != "begin" and random.random() < share]
    for _ in range(random.choice(_LENGTHS) if taken else 0):
        tried = (random.choice(taken) for _ in range(_TRIES))
        name = next((name for name in tried if kind.rules[name].when(machine)), None)
        if name is None:
            break
        take(name)
    machine.finish()


def _replay(kind: type[Machine], script: Script) -> Exception | None:
    """The same steps again; those that cannot happen are left out."""
    try:
        machine = kind()
        for step in script:
            rule = kind.rules[step.rule]
            if rule.when(machine):
                rule.act(machine, **step.arguments)
                machine.check()
        machine.finish()
    except Exception as error:
        return error
    return None


def _shrunk(kind: type[Machine], script: Script, error: Exception) -> tuple[Script, Exception]:
    """A shorter way to the same failure, and the error in which it ends."""
    before: Script = []
    deadline = monotonic() + _PATIENCE
    while before != script:
        before = script
        for simpler in (_with_fewer_steps, _with_simpler_arguments):
            tries = simpler(kind, script)
            shorter = next(tries, None)
            while shorter is not None and monotonic() < deadline:
                another = _replay(kind, shorter)
                same = another is not None and _place(another) == _place(error)
                if another is not None and same:
                    script, error = shorter, another
                shorter = _sent(tries, same)
    return script, error


def _sent(tries: Tries, same: bool) -> Script | None:
    """What is to be tried next, now that it is known whether the last one fails likewise."""
    try:
        return tries.send(same)
    except StopIteration:
        return None


def _with_fewer_steps(kind: type[Machine], script: Script) -> Tries:
    """Without a part, the largest parts first; never without `begin`."""
    size = len(script) // 2
    while size:
        end = len(script)
        while end > 1:
            first = max(1, end - size)
            shorter = script[:first] + script[end:]
            if (yield shorter):
                script = shorter
            end = first
        size //= 2


def _with_simpler_arguments(kind: type[Machine], script: Script) -> Tries:
    """Each argument once more as the first of its values."""
    for place, step in enumerate(script):
        for name, values in kind.rules[step.rule].choices.items():
            if step.arguments[name] != values[0]:
                simple = Step(step.rule, {**step.arguments, name: values[0]})
                simpler = [*script[:place], simple, *script[place + 1 :]]
                if (yield simpler):
                    script, step = simpler, simple


def _place(error: Exception) -> tuple[type[Exception], str, int | None]:
    """Where something failed."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), frame.filename, frame.lineno
