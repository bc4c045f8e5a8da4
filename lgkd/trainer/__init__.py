"""The training loop and what it stands on. The only room that imports accelerate."""
