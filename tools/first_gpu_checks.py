"""Checks of a first GPU that need no data: each prints one line, and ends with an error's first line where it fails.

python -m tools.first_gpu_checks NAME --device DEVICE [--tiny]
"""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from lgkd.cli import run
from lgkd.config import Optimizer
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.training import make_images, make_loader, make_plan, make_task

# Above what half precision holds, so that the first step overflows and is skipped.
_SCALE = 2.0**24
_MODEL = {
    False: "--student deit_tiny --student-option patch_size=4 --image-size 32 --batch-size 64",
    True: "--student vit_96 --student-option patch_size=4 --student-option depth=3 --student-option embed_dim=24 "
    "--student-option num_heads=2 --image-size 8 --batch-size 32 --images-per-class 8",
}


def deterministic(device: str, *, tiny: bool) -> str:
    """Train a guided student for an epoch of digits, twice; its weights must be equal to the bit."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LGKD_HOME"] = str(Path(scratch) / "home")
        on = f"--epochs 1 --deterministic --device {device} --offline --quiet --out {scratch}"
        share = "--images-per-class 8" if tiny else ""
        commands = [f"train-teacher resnet8 digits {share} {on}/teacher"]
        commands += [f"distill --dataset digits --teacher resnet8 {_MODEL[tiny]} {on}/{turn}" for turn in (1, 2)]
        for command in commands:
            if (code := run(command.split())) != 0:
                raise RuntimeError(f"lgkd {command.partition(' ')[0]} ended with code {code}")
        weights = [Path(scratch, str(turn), "student.safetensors").read_bytes() for turn in (1, 2)]
        found = [hashlib.sha256(one).hexdigest() for one in weights]
    if found[0] != found[1]:
        raise RuntimeError(f"two trainings ended with other weights: {found[0][:12]} and {found[1][:12]}")
    return f"equal: SHA-256 {found[0][:12]}"


def momentum(device: str, *, tiny: bool) -> str:
    """Train by SGD in fp16 after a first step that overflows; momentum and weights must be finite."""
    half = torch.device(device).type == "cuda"
    optimizer = Optimizer("sgd", lr=1e-3, weight_decay=0.0)
    plan = make_plan(
        device=device, precision="fp16" if half else "fp32", optimizer=optimizer, accumulate=1, clip_norm=None, ema=None
    )
    engine = Engine(make_task(), plan, names=lambda index: [])
    scaler = engine.accelerator.scaler
    if scaler is not None:
        scaler._init_scale = _SCALE
    loader, meters, scales = make_loader(make_images(), device=device), RunningMean(), []
    engine.task.train()
    for epoch in range(2 if tiny else 6):
        for place, batch in enumerate(loader.epoch(epoch)):
            engine.step(batch, epoch, place, meters)
            scales.append(scaler.get_scale() if scaler is not None else 1.0)
    engine.guard.settle()
    state = [value for one in engine.raw_optimizer.state.values() for value in one.values()]
    values = [value for value in (*state, *engine.task.parameters()) if isinstance(value, torch.Tensor)]
    engine.close()
    if half and scales[0] >= _SCALE:
        raise RuntimeError(f"the first step did not overflow at a scale of {_SCALE:g}, so nothing was shown")
    if not state or not all(bool(torch.isfinite(value.detach()).all()) for value in values):
        raise RuntimeError("momentum or weights are not finite after a skipped first step")
    return f"finite after {len(scales)} steps; scale {_SCALE:g} to {scales[-1]:g}" if half else "finite, in fp32"


CHECKS: dict[str, Callable[..., str]] = {"deterministic": deterministic, "momentum": momentum}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.first_gpu_checks")
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(words)
    try:
        print(CHECKS[given.name](given.device, tiny=given.tiny))
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
