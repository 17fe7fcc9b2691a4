"""HTTP for the long-polling transport of clients, which their adapters share. On h11, free of I/O."""
