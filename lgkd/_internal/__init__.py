"""Provide helpers independent of the method: files, locks, processes, text. Not part of the public API."""
