"""The I/O-free parts that the clients of all adapters share."""
