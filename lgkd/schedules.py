"""Re-export the schedules of terms under their documented name."""

from lgkd.distillation.schedules import AdaptiveStop as AdaptiveStop
from lgkd.distillation.schedules import TermSchedule as TermSchedule
