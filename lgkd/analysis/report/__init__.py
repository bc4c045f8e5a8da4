"""Report a run as one HTML page to share."""
