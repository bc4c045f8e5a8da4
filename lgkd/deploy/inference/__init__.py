"""What a trained student says of images: which files are meant, what they are read by, and the answers."""
