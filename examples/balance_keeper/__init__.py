"""Keeps the balance of every SIM card of a fleet, from what a Phoenix server says of each.

`events` are the payloads, `handlers` what each of them does, `store` is where balances are, `keeper` is the connection.
A balance and the id of the last event in it are written together, and every join says that id: whatever is cut, crashed
or restarted, each event counts once.
"""
