"""HTTP: one module a resource. A view parses, calls one service, dumps."""
