"""Which columns of metrics.csv are costs: they differ between two runs that are equal to the bit."""


def is_cost(column: str) -> bool:
    return "second" in column or column == "memory_mb"
