"""Resolve, build and run one training, a sweep of them, or a dry run."""
