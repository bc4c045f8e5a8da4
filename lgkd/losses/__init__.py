"""Define losses: plain modules, one per file, without weight, layer names or schedule.

To add a loss, add a file to this package with a class decorated by `register_loss`; its modules are imported here.
`python -m tools.loss_table` then writes its options for recipes, and its name for type checkers.

The class attribute `reads` declares the inputs of a loss:

| reads | forward |
|---|---|
| "maps" | `(student_maps, teacher_maps)`: two lists of (B,C,h,w), equally long unless `all_blocks` |
| "logits" | `(student_logits, teacher_logits, targets)`: (B,K) twice, and (B,) class numbers or (B,K) probabilities |
| "distillation" | as "logits", the student's being those of its distillation head |
| "embeddings" | `(student_embedding, teacher_embedding)`: (B,D) and (B,C), inputs of the classifiers' last layers |
| "dense" | `(student_dense, teacher_dense, teacher_logits)`: of each position (B,K,h,w) and (B,K,h',w'), and (B,K) |
| "student-maps" | `(student_maps)`: a list of (B,C,h,w), of the student's taps; the teacher is not read |
| "exits" | `(student_maps, teacher_logits, targets)`: of the student's taps, and as "logits" |
| "images" | `(images)`: the student's, (B,3,H,W); `build` takes the encoder of some of its patches alone |

All return a scalar. `across_batch` is True if a sample's loss depends on the other samples; such a loss needs the whole
batch at once. A loss with parameters has `build`, called once with the shapes of its inputs: (C,h,w) of all student
maps and of all teacher maps, or of the former alone (with K for "exits"), or the two widths of embeddings. `all_blocks`
(only "maps") is True if the student's list contains the maps of all its blocks. `teacher_classifier` (only
"embeddings") is True if `build` also takes the matrix of the teacher's classifier, (K,C). `build` of a "dense" loss
takes the two shapes and `classified`, which is False if the student's input is not dense logits but the map (B,D,h,w)
of its last block. `set_progress`, where a loss has it, is called before every step with the finished fraction of the
training. `multi_label` (only of those that read logits) is True if an image may have several labels, targets being
(B,K) of 0 and 1; `per_class()` returns another loss for them. `takes_index` (only "embeddings") is True if `forward` is
also given the places of the images among the training images, int64 (B,), and `build` their labels, (N,) or (N,K).
Only `MapLoss` propagates a gradient to the teacher's side.
"""

from importlib import import_module
from pkgutil import iter_modules

from lgkd.losses.registry import TERMS

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
globals().update({loss.__name__: loss for loss in TERMS.values()})

__all__ = ["TERMS", *sorted(loss.__name__ for loss in TERMS.values())]
