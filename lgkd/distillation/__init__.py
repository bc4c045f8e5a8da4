"""Locality guidance: taps, features, terms, guides and tasks."""
