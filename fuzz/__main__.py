"""`python -m fuzz`: run every target, or the named ones, with inputs made from its corpus.

Hypothesis makes them, and shrinks what breaks a target; `with_atheris.py` is for hours. What breaks a target is written
into its corpus.
"""

import argparse
import sys
from time import monotonic

from hypothesis import HealthCheck, Phase, given, seed, settings

from .inputs import inputs
from .targets import TARGETS, Target

_BATCH = 500  # inputs between two looks at the clock


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "targets",
        nargs="*",
        choices=[*TARGETS, []],
        metavar="TARGET",
        help=f"all, if none is named: {', '.join(TARGETS)}",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what comes of it is the same again (%(default)s)")
    options = parser.parse_args()
    targets = [TARGETS[name] for name in options.targets or TARGETS]
    broken = [target.name for target in targets if not _holds(target, options.seconds, options.seed)]
    print(f"broken: {', '.join(broken)}" if broken else "nothing was found")
    return bool(broken)


def _holds(target: Target, seconds: float, first_seed: int) -> bool:
    ends = monotonic() + seconds
    count = 0
    latest = b""

    def check(data: bytes) -> None:
        nonlocal latest, count
        latest = data
        count += 1
        target.check(data)

    quiet = settings(
        max_examples=_BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    number = first_seed
    try:
        for data in target.corpus():
            check(data)
        while monotonic() < ends:
            seed(number)(quiet(given(inputs(target))(check)))()
            number += 1
    except Exception as error:  # whatever it is, that is the finding
        place = target.keep(latest)
        print(f"{target.name}: {type(error).__name__}: {error}\n  with {latest!r}\n  kept as {place}, seed {number}")
        return False
    print(f"{target.name}: {count} inputs")
    return True


if __name__ == "__main__":
    sys.exit(main())
