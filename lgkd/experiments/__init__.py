"""Named experiments: what is trained on what, what is expected of it, and running them to rows of a table.

An experiment is data (`catalogue/`); it can be listed, shown and looked at without torch.
"""
