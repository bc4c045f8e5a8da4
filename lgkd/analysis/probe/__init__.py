"""Probe the features of finished runs: k-nearest neighbours and a linear classifier on a frozen student."""
