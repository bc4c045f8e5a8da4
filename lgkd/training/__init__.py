"""The training loop and its parts. The only package that imports accelerate."""
