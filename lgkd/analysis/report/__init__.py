"""A run as one page to read and pass on."""
