"""Finished runs side by side: which belong together, what they come to, and how sure one can be of a difference.

No torch in this package: a comparison reads what runs have written of themselves.
"""

from lgkd.runs.compare.comparison import Comparison, Difference, compare
from lgkd.runs.compare.find import Finished

__all__ = ["Comparison", "Difference", "Finished", "compare"]
