"""Only tests bring `rich`; structlog loads it, four megabytes a process, wherever it finds it. A service does not have it."""

raise ImportError("as in the environment of a service")
