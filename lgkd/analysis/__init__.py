"""Analyse finished runs: the report and the inspection."""
