"""lgkd: knowledge distillation centred on locality guidance.

A small CNN that was trained on low-resolution images of your data set guides a Vision Transformer
that learns the same data set from scratch.

    import lgkd

    run = lgkd.distill(student="pvtv2", teacher="resnet56", dataset="cifar100")
    run.student, run.metrics, run.folder

Names are imported when they are first used, so that `import lgkd` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgkd import losses
    from lgkd.analysis.inspect.inspect import Inspection, inspect_run
    from lgkd.analysis.report.report import write_report
    from lgkd.api import (
        Comparison,
        Exported,
        Options,
        Prediction,
        Run,
        Series,
        cache_teacher,
        check,
        compare,
        create_student,
        create_teacher,
        distill,
        distill_series,
        evaluate,
        export,
        import_teacher,
        load_run,
        load_student,
        load_teacher,
        predict,
        resume,
        train,
        train_series,
        train_teacher,
    )
    from lgkd.config import Recipe, load_recipe
    from lgkd.config.registry import register_term
    from lgkd.data.checks.report import CheckReport
    from lgkd.data.dataset import DataSet, Images
    from lgkd.data.load import load_dataset
    from lgkd.distillation.guide import Guide, Term
    from lgkd.distillation.taps import Tap
    from lgkd.distillation.tasks import Batch, Guided, Step, Supervised
    from lgkd.models.teacher import Teacher
    from lgkd.training.evaluate import Scores

_HOMES = {
    "lgkd.api": (
        "Comparison",
        "Exported",
        "Options",
        "Prediction",
        "Run",
        "Series",
        "cache_teacher",
        "check",
        "compare",
        "create_student",
        "create_teacher",
        "distill",
        "distill_series",
        "evaluate",
        "export",
        "import_teacher",
        "load_run",
        "load_student",
        "load_teacher",
        "predict",
        "resume",
        "train",
        "train_series",
        "train_teacher",
    ),
    "lgkd.data.checks.report": ("CheckReport",),
    "lgkd.data.dataset": ("DataSet", "Images"),
    "lgkd.data.load": ("load_dataset",),
    "lgkd.training.evaluate": ("Scores",),
    "lgkd.analysis.report.report": ("write_report",),
    "lgkd.distillation.guide": ("Guide", "Term"),
    "lgkd.analysis.inspect.inspect": ("Inspection", "inspect_run"),
    "lgkd.models.teacher": ("Teacher",),
    "lgkd.config.registry": ("register_term",),
    "lgkd.config": ("Recipe", "load_recipe"),
    "lgkd.distillation.taps": ("Tap",),
    "lgkd.distillation.tasks": ("Batch", "Guided", "Step", "Supervised"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "CheckReport",
    "Comparison",
    "DataSet",
    "Exported",
    "Guide",
    "Guided",
    "Images",
    "Inspection",
    "Options",
    "Prediction",
    "Recipe",
    "Run",
    "Scores",
    "Series",
    "Step",
    "Supervised",
    "Tap",
    "Teacher",
    "Term",
    "cache_teacher",
    "check",
    "compare",
    "create_student",
    "create_teacher",
    "distill",
    "distill_series",
    "evaluate",
    "export",
    "import_teacher",
    "inspect_run",
    "load_dataset",
    "load_recipe",
    "load_run",
    "load_student",
    "load_teacher",
    "losses",
    "predict",
    "register_term",
    "resume",
    "train",
    "train_series",
    "train_teacher",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("lgkd.losses")
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lgkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
