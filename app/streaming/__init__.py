"""Sessions over WebSocket: the connections of a web process, in one thread with one event loop."""
