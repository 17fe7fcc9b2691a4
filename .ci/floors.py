"""Prints pip constraints that hold what users install to the oldest versions that pyproject.toml allows.

`pip install -e '.[test]' -c FILE` with them installs the oldest; without them, the newest.
"""

import re
import tomllib
from pathlib import Path

#: The extras that are tools of ours; the others are for users.
OURS = ("test", "bench", "docs", "frameworks", "mutation", "dev")


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    extras = [requirements for extra, requirements in project["optional-dependencies"].items() if extra not in OURS]
    for requirement in sum(extras, project["dependencies"]):
        name, floor = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        print(f"{name}=={floor}")


if __name__ == "__main__":
    main()
