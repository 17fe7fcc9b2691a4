"""The face without `await`, which the clients on threads and on wsproto share."""
