"""Prints pip constraints that hold what users install to the oldest versions that pyproject.toml allows.

`pip install -e '.[test]' -c FILE` with them installs the oldest; without them, the newest.
"""

import re
import tomllib
from pathlib import Path

#: The extras that are for users; the others are tools of ours.
EXTRAS = ("cli", "msgpack", "wsproto", "testing")


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    for requirement in sum((extras[name] for name in EXTRAS), project["dependencies"]):
        name, floor = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,.*)?", requirement).groups()
        print(f"{name}=={floor}")


if __name__ == "__main__":
    main()
