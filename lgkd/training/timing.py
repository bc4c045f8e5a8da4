"""Wait for a device before reading a clock."""

import torch


def synchronise(device: str | torch.device) -> None:
    """Wait until a GPU has finished its queued work; on a CPU return at once."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
