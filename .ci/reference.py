"""Prints the public names for which the built site has no entry: `python .ci/reference.py SITE`.

Public is what `__all__` of a package of ours names, and of a module that holds a vocabulary.
"""

import sys
import zlib
from importlib import import_module
from pathlib import Path

MODULES = (
    "phx_proto",
    "phx_proto.commands",
    "phx_proto.errors",
    "phx_proto.events",
    "phx_proto.formats",
    "phx_proto.presence",
    "phx_proto.server",
    "phx_transports.asyncio",
    "phx_transports.otel",
    "phx_transports.server",
    "phx_transports.testing",
    "phx_transports.testing.strategies",
    "phx_transports.threads",
    "phx_transports.wsproto",
)


def main(site: Path) -> int:
    """Compare them with the inventory that mkdocstrings writes for other sites."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    there = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    absent = [
        f"{module}.{name}"
        for module in MODULES
        for name in import_module(module).__all__
        if f"{module}.{name}" not in there
    ]
    print(*(f"not in the reference: {name}" for name in absent), sep="\n", file=sys.stderr)
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
