"""Build plain ViTs: their parts, the model that joins them, and named configurations."""
