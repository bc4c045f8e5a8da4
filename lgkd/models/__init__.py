"""Teachers and students: how they are made, and which of their layers are tapped.

Nothing is imported here, so that listing names does not import torch.
"""
