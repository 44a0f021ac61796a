"""PostgreSQL with pgvector: tables, connections, search, and the embedded server. Knows nothing of Flask."""
