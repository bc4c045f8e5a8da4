"""Train models: the training loop and its parts. The only package that imports accelerate."""
