"""Summarise the accuracy of runs under corruptions, and compare guided runs with unguided ones."""
