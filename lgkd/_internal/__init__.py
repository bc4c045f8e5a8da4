"""Helpers without knowledge of the method: files, locks, processes, text. Not part of the public API."""
