"""Runners of other clients, each run in an environment of its own (`bench.environments`) from the project's root.

Nothing but the client's package and `bench.meter` is imported here. The contract is `bench.meter`'s.
"""
