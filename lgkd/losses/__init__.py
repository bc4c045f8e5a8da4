"""Losses: plain modules, one a file, without weight, layer names or schedule.

A file of this package with a class that `register_loss` decorates is all that a loss needs; the modules are found here.
`python -m tools.loss_table` then writes its options for recipes, and its name for type checkers.

What a loss is given is the class attribute `reads`:

| reads | forward |
|---|---|
| "maps" | `(student_maps, teacher_maps)`: two lists of (B,C,h,w), equally long unless `all_blocks` |
| "logits" | `(student_logits, teacher_logits, targets)`: (B,K) twice, and (B,) class numbers or (B,K) probabilities |
| "distillation" | as "logits", the student's being those of its distillation head |
| "embeddings" | `(student_embedding, teacher_embedding)`: (B,D) and (B,C), what the classifiers' last layers read |

All give a scalar. `across_batch` says whether a sample's loss depends on the other samples; such a loss needs
the whole batch at once. A loss that learns has `build`, called once with what it will be given: shapes (C,h,w)
of all student maps and of all teacher maps, or the two widths of embeddings. `all_blocks` (only "maps")
says that the student's list holds the maps of all its blocks. No loss but `MapLoss` hands a gradient on to
the teacher's side.
"""

from importlib import import_module
from pkgutil import iter_modules

from lgkd.losses.registry import TERMS

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
globals().update({loss.__name__: loss for loss in TERMS.values()})

__all__ = ["TERMS", *sorted(loss.__name__ for loss in TERMS.values())]
