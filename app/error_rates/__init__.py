"""How often a domain's own gallery is mistaken: distances of its templates, and the error rates that follow."""
