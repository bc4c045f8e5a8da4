"""Build CNN teachers for small images."""
