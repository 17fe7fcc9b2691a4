"""HTTP for the clients' long-polling transport, for all adapters. On h11, free of I/O."""
