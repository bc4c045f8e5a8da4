"""Compare finished runs: group them by seed, summarise each group, and estimate differences with intervals.

No torch in this package: a comparison reads only the files of the runs.
"""

from lgkd.runs.compare.comparison import Comparison, Difference, compare
from lgkd.runs.compare.find import Finished

__all__ = ["Comparison", "Difference", "Finished", "compare"]
