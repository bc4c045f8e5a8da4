"""Re-export the schedules of terms under their documented name."""

from lgkd.config import AdaptiveStop as AdaptiveStop
from lgkd.config import TermSchedule as TermSchedule
