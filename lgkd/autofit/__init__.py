"""Fit a folder of images with one command: choose the settings, train teacher and students, report, export."""
