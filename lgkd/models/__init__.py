"""Build teachers and students, and choose the layers that are tapped.

Nothing is imported here, so that listing names does not import torch.
"""
