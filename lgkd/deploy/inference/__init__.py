"""Predict with a trained student: find its files and the images, read them, return classes."""
