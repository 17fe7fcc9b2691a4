"""Imports run one way, in both packages: no module imports one that imports it, not for its types either."""

from graphlib import TopologicalSorter

from modules import imports, modules_of

import phx_proto
import phx_transports

MODULES = [*modules_of(phx_proto), *modules_of(phx_transports)]


def graph() -> dict[str, set[str]]:
    own = {module.name for module in MODULES}
    return {
        module.name: {
            name for for_types in (False, True) for name in imports(module, MODULES, for_types=for_types) if name in own
        }
        for module in MODULES
    }


def test_every_module_is_looked_at() -> None:
    assert {"phx_proto.server.protocol", "phx_transports.asyncio.face"} <= graph().keys()


def test_there_is_no_circle() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError


def test_the_public_names_of_the_core_are_on_top_of_it() -> None:
    assert not [name for name, imported in graph().items() if name.startswith("phx_proto.") and "phx_proto" in imported]
