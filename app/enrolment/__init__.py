"""Domains, persons and their templates: in and out of the gallery."""
