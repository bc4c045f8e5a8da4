"""A small training whose length follows from its time, as options of Python and as words of a command."""

TINY = {"patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2}
SMALL = {"recipe": "supervised", "image_size": 8, "batch_size": 64, "student_options": TINY}
OPTIONS = [word for name, value in TINY.items() for word in ("--student-option", f"{name}={value}")]
WORDS = [*OPTIONS, "--student", "vit_96", "--dataset", "digits", "--image-size", "8", "--batch-size", "64", "--quiet"]


def options_of(small: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in small.items() if name != "student_options"}
