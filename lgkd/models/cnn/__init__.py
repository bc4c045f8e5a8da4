"""CNN teachers for small images."""
