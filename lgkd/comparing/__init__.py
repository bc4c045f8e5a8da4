"""Finished runs side by side: which belong together, what they come to, and how sure one can be of a difference.

No torch in this room: a comparison reads what runs have written of themselves.
"""

from lgkd.comparing.outcome import Comparison, Difference, compare
from lgkd.comparing.reading import Finished

__all__ = ["Comparison", "Difference", "Finished", "compare"]
