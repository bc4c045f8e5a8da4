"""Check the options of a probe before torch is imported."""

from lgkd.errors import InputError

NEIGHBOURS = 20
TEMPERATURE = 0.07
VAL_FRACTION = 0.2


def check_options(neighbours: int, temperature: float, val_fraction: float | None) -> None:
    """Check the numbers of a probe.

    Raises:
        InputError: one is out of range.
    """
    if neighbours < 1:
        raise InputError(f"--neighbours is {neighbours}, expected 1 or more")
    if not temperature > 0:
        raise InputError(f"--temperature is {temperature:g}, expected a number above 0, such as {TEMPERATURE}")
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise InputError(
            f"--val-fraction is {val_fraction:g}, expected a number from 0 to below 1; with 0 the regularisation is "
            "not chosen"
        )
