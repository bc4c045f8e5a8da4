"""The plain ViT, written once: its parts, the model that joins them, and the names that choose among the parts."""
