"""Catalogue the experiments that lgkd knows by name, from the smallest to the largest. No torch in here."""

from lgkd.experiments.catalogue import deit, others, teachers
from lgkd.experiments.catalogue.evening import EVENING
from lgkd.experiments.catalogue.field import FIELD
from lgkd.experiments.catalogue.folders import FOLDERS
from lgkd.experiments.catalogue.minutes import MINUTES
from lgkd.experiments.catalogue.two_cores import TWO_CORES
from lgkd.experiments.spec import Experiment

_FULL = (
    teachers.RESNET56,
    deit.MAIN,
    others.PVT,
    deit.ADAPTIVE,
    deit.LOGITS,
    others.DHVT,
    deit.PLUS,
    teachers.ZOO,
)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for experiment in (*MINUTES, *TWO_CORES, *FIELD, *FOLDERS, *EVENING, *_FULL)
}
"""Experiments by name; those for a GPU in the order in which they should be run."""
