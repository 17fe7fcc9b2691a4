"""What every WebSocket connection shares: ways to a server, handshakes, and frames cut out of what a read brought."""
