"""Images: where they come from, how they are augmented, mixed and fed."""
