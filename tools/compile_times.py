"""Measure how long inductor compiles guided steps, with an empty and with a filled cache: whole, and one block for all.

python -m tools.compile_times [--students vit_128,deit_tiny]

Prints a row of a table for each student and way: processor seconds of the first step less those of a later one, by an
empty cache and by one that an earlier process has filled, and the time of a later step beside that of an eager one.
One thread, bf16, 16 images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext

IMAGES, STEPS = 16, 4
SUBJECTS = {"vit_128": (32, "fastnet_guide"), "deit_tiny": (224, "resnet56")}


def measure(student: str, way: str) -> dict[str, float]:
    """Measure a training of a few steps in this process: processor seconds of the first, and of the fastest other."""
    import torch

    from lgkd.distillation.guide import Guide, Term
    from lgkd.distillation.tasks import Batch, Guided
    from lgkd.losses import MapLoss, StandardizedKD
    from lgkd.models.factory import create_model, create_student
    from lgkd.models.teacher import Teacher
    from lgkd.training.compile import compile_task
    from lgkd.training.compile_blocks import CompiledBlocks

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, name = SUBJECTS[student]
    model = create_student(student, num_classes=100, image_size=size)
    teacher = Teacher(create_model(name, num_classes=100, image_size=32, options={}), image_size=32)
    guide = Guide(model, teacher, image_size=size, terms=[Term(MapLoss()), Term(StandardizedKD(2.0, 0.1))])
    task = Guided(model, guide).train()
    task.cast_frozen(torch.bfloat16)
    compiled: AbstractContextManager[object] = nullcontext()
    blocks = CompiledBlocks(model) if way == "blocks" else None
    if way == "whole":
        compile_task(task, cuda_graphs=False)
    batch = Batch(torch.randn(IMAGES, 3, size, size), torch.arange(IMAGES))
    seconds = []
    for _ in range(1 + STEPS):
        began = _processor()
        compiled = blocks.running() if blocks is not None else nullcontext()
        with torch.autocast("cpu", dtype=torch.bfloat16), compiled:
            loss = task(batch).loss
        loss.backward()
        task.zero_grad()
        seconds.append(_processor() - began)
    return {"first": seconds[0] - min(seconds[1:]), "step": min(seconds[1:])}


def _processor() -> float:
    """Return processor seconds of this process and of its finished children, such as compilers."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _apart(student: str, way: str, cache: str) -> dict[str, float]:
    """Measure in a process of its own with a cache of inductor."""
    command = [sys.executable, "-m", "tools.compile_times", "--one", student, way]
    # Workers that outlive the process would hide their time from it.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--students", default=",".join(SUBJECTS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    began = time.monotonic()
    print("| student, image | compiled | empty cache, s | filled cache, s | a step, s | an eager step, s |")
    print("|---|---|---:|---:|---:|---:|")
    for student in given.students.split(","):
        with tempfile.TemporaryDirectory() as nothing:
            eager = _apart(student, "off", nothing)["step"]
        for way in ("blocks", "whole"):
            with tempfile.TemporaryDirectory() as cache:
                cold, warm = _apart(student, way, cache), _apart(student, way, cache)
            numbers = [f"{cold['first']:.1f}", f"{warm['first']:.1f}", f"{min(cold['step'], warm['step']):.2f}"]
            row = [f"`{student}`, {SUBJECTS[student][0]} px", way, *numbers, f"{eager:.2f}"]
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    main()
