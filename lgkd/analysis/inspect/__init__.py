"""Inspect students: attention distance, similarity to the teacher, robustness to corruptions."""
