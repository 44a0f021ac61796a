"""`scripts/serve`: prepares the storage folder, then runs database, worker pool and web until it is told to stop."""
