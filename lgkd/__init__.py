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

if TYPE_CHECKING:  # type checkers read names here alone; a test holds both lists equal
    from lgkd import losses as losses
    from lgkd.analysis.inspect.inspect import Inspection as Inspection
    from lgkd.analysis.inspect.inspect import inspect_run as inspect_run
    from lgkd.analysis.probe.probe import ProbeScores as ProbeScores
    from lgkd.analysis.probe.probe import probe as probe
    from lgkd.analysis.report.report import write_report as write_report
    from lgkd.api import cache_teacher as cache_teacher
    from lgkd.api import check as check
    from lgkd.api import distill as distill
    from lgkd.api import distill_series as distill_series
    from lgkd.api import evaluate as evaluate
    from lgkd.api import export as export
    from lgkd.api import load_run as load_run
    from lgkd.api import load_teacher as load_teacher
    from lgkd.api import predict as predict
    from lgkd.api import resume as resume
    from lgkd.api import train as train
    from lgkd.api import train_series as train_series
    from lgkd.api import train_teacher as train_teacher
    from lgkd.autofit.fit import fit as fit
    from lgkd.autofit.outcome import Fitted as Fitted
    from lgkd.config import Recipe as Recipe
    from lgkd.config import load_recipe as load_recipe
    from lgkd.config.registry import register_term as register_term
    from lgkd.data.checks.report import CheckReport as CheckReport
    from lgkd.data.dataset import DataSet as DataSet
    from lgkd.data.dataset import Images as Images
    from lgkd.data.load import load_dataset as load_dataset
    from lgkd.deploy.export import Exported as Exported
    from lgkd.deploy.inference.predict import Prediction as Prediction
    from lgkd.distillation.guide import Guide as Guide
    from lgkd.distillation.guide import Term as Term
    from lgkd.distillation.taps import Tap as Tap
    from lgkd.distillation.tasks import Batch as Batch
    from lgkd.distillation.tasks import Guided as Guided
    from lgkd.distillation.tasks import Step as Step
    from lgkd.distillation.tasks import Supervised as Supervised
    from lgkd.models.factory import create_student as create_student
    from lgkd.models.factory import create_teacher as create_teacher
    from lgkd.models.teacher import Teacher as Teacher
    from lgkd.runner.import_teacher import import_teacher as import_teacher
    from lgkd.runner.options import Options as Options
    from lgkd.runner.run import Run as Run
    from lgkd.runner.sweep import Series as Series
    from lgkd.runs.compare import Comparison as Comparison
    from lgkd.runs.compare import compare as compare
    from lgkd.runs.load_student import load_student as load_student
    from lgkd.training.evaluate import Scores as Scores

__version__ = "0.1.0"

_HOMES = {
    "lgkd.analysis.inspect.inspect": "Inspection inspect_run",
    "lgkd.analysis.probe.probe": "ProbeScores probe",
    "lgkd.analysis.report.report": "write_report",
    "lgkd.api": (
        "cache_teacher check distill distill_series evaluate export load_run load_teacher predict resume train "
        "train_series train_teacher"
    ),
    "lgkd.autofit.fit": "fit",
    "lgkd.autofit.outcome": "Fitted",
    "lgkd.config": "Recipe load_recipe",
    "lgkd.config.registry": "register_term",
    "lgkd.data.checks.report": "CheckReport",
    "lgkd.data.dataset": "DataSet Images",
    "lgkd.data.load": "load_dataset",
    "lgkd.distillation.guide": "Guide Term",
    "lgkd.distillation.taps": "Tap",
    "lgkd.distillation.tasks": "Batch Guided Step Supervised",
    "lgkd.deploy.export": "Exported",
    "lgkd.deploy.inference.predict": "Prediction",
    "lgkd.models.factory": "create_student create_teacher",
    "lgkd.runner.import_teacher": "import_teacher",
    "lgkd.runner.options": "Options",
    "lgkd.runner.run": "Run",
    "lgkd.runner.sweep": "Series",
    "lgkd.runs.compare": "Comparison compare",
    "lgkd.runs.load_student": "load_student",
    "lgkd.models.teacher": "Teacher",
    "lgkd.training.evaluate": "Scores",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(["losses", *_HOME_OF])


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
