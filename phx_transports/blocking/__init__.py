"""The client without `await`, shared by threads and wsproto."""
