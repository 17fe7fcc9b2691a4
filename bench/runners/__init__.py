"""Runners in this project's own environment; the contract is `bench.meter`'s."""
