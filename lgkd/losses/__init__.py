"""Losses: plain modules, one family a file. They know no weight, no layer name and no schedule.

A family is the class attribute `reads`: it says what a loss is given.

| reads | forward |
|---|---|
| "maps" | `(student_maps, teacher_maps)`: two equally long lists of (B,C,h,w), and a scalar back |
"""

from lgkd.losses.maps import MapLoss

__all__ = ["MapLoss"]
