"""Run named experiments: trainings, expected figures, and rows of a results table.

An experiment is data (`catalogue/`); it can be listed and shown without torch.
"""
