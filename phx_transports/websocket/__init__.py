"""What all WebSocket connections share: dialing, handshakes, and cutting messages out of reads."""
