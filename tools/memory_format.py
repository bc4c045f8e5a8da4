"""Compare the memory formats of students: seconds of a forward and backward pass, with and without channels last.

python -m tools.memory_format [NAME,SIZE,BATCH ...]

Processor time on one thread in bf16, the shortest of five, both in turn, so that other work on the machine disturbs
them little and alike. The students are untrained, and their images random.
"""

import argparse
import copy
import time

import torch
from torch import Tensor, nn

from lgkd.models.factory import create_student
from lgkd.models.memory_format import prefers_channels_last
from lgkd.models.sdpa import quick_attention

_ROUNDS = 5
STUDENTS = (
    "vit_128,32,64", "vit_128_conv,32,64", "vit_192_conv,32,64", "cct_7_3x1,32,32", "pvtv2,64,16", "pvtv2,224,8",
    "cvt_13,64,8", "dhvt_tiny,32,32", "timm:mobilevit_s,64,8", "timm:efficientformer_l1,224,2",
    "timm:levit_128s,224,4", "timm:xcit_nano_12_p16_224,224,4",
)  # fmt: skip


def step_time(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    """Return the processor seconds of a forward and backward pass."""
    began = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16), quick_attention(model, "cpu", "bf16"):
        logits = model(images)
    loss = nn.functional.cross_entropy(logits.float(), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    taken = time.process_time() - began
    model.zero_grad()
    return taken


def main() -> None:
    """Print a row for each student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", default=STUDENTS, metavar="NAME,SIZE,BATCH")
    torch.set_num_threads(1)
    print("| student, image, batch | as created, ms | channels last, ms | times as fast | chosen |")
    print("|---|---:|---:|---:|---|")
    for text in parser.parse_args().students:
        name, size, batch = text.rsplit(",", 2)
        plain = create_student(name, num_classes=100, image_size=int(size)).train()
        last = nn.utils.convert_conv2d_weight_memory_format(copy.deepcopy(plain), torch.channels_last)
        images, targets = torch.randn(int(batch), 3, int(size), int(size)), torch.arange(int(batch)) % 100
        reordered = images.contiguous(memory_format=torch.channels_last)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            times[0].append(step_time(plain, images, targets))
            times[1].append(step_time(last, reordered, targets))
        before, after = (1000 * min(some) for some in times)
        chosen = "channels last" if prefers_channels_last(plain, "cpu") else "as created"
        print(
            f"| `{name}`, {size} px, {batch} | {before:.0f} | {after:.0f} | {before / after:.2f} | {chosen} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
