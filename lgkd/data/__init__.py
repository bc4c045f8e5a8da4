"""Load, decode, augment, mix and batch images."""
