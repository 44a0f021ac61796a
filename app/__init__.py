"""Facedex: a self-hosted face recognition service."""
