"""Download, verify and arrange published data sets."""
