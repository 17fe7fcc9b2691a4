"""Keeps the balance of every SIM card of a fleet, from a Phoenix server's events.

`events` are the payloads, `handlers` what each of them does, `store` is where balances are, `keeper` is the connection.
A balance and the id of the last event in it are written together, and every join sends that id: after any cut, crash or
restart, each event counts once.
"""
