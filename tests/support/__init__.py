"""Data, models and runs that several files of tests share."""
