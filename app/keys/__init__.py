"""API keys: who a request comes from, what they may do, and to which domains."""
