"""Serve a student over HTTP (extra `serve`): one page, and JSON for programs."""
