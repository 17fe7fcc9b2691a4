"""What the clients of all adapters share, free of I/O."""
