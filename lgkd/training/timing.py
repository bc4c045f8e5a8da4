"""Wait for a device before reading a clock."""

import torch


def synchronise(device: str | torch.device) -> None:
    """Wait until a GPU has done what it was told; a CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
