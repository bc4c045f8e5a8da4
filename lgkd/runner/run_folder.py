"""Name the default folder of a run after its options. No torch."""

from pathlib import Path

from lgkd.config import Recipe
from lgkd.data.names import dataset_key, folder_word, subset_word
from lgkd.models.registry import canonical


def run_folder(
    model: str,
    dataset: str | Path,
    subset: str | None,
    by: str | None,
    recipe: str | Path | Recipe,
    seed: int | None,
    extra: str | Path | None = None,
    start: Path | None = None,
) -> Path:
    """Return a run's default folder: runs/ in the working folder, named after the options.

    Args:
        model: a name of the catalogue or a class.
        dataset: a named data set or a folder.
        subset: its `text`.
        by: the teacher.
        recipe: its name is used.
        seed: of the run; None for the folder of several seeds.
        extra: the folder of extra images.
        start: the folder or file of the initial weights.
    """
    parts = [folder_word(canonical(model)), dataset_key(dataset)]
    if subset is not None:
        parts.append(subset_word(subset))
    if extra is not None:
        parts.append(f"with-{dataset_key(Path(extra))}")
    if start is not None:
        parts.append(f"from-{folder_word(start.stem if start.is_file() else start.name)}")
    if by is not None:
        parts.append(f"by-{folder_word(by)}")
    parts.append(recipe_name(recipe))
    return Path("runs") / "_".join(parts if seed is None else [*parts, f"seed{seed}"])


def recipe_name(recipe: str | Path | Recipe) -> str:
    """Return a recipe's name: its shipped name or its file's, "custom" for an object."""
    return "custom" if isinstance(recipe, Recipe) else Path(recipe).stem
