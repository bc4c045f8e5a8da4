"""Classify images by name: true classes of labelled folders, predictions and, where wanted, explanations."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lgkd.deploy.inference.explain import explain_images
from lgkd.deploy.inference.image_files import reader_of, true_classes, true_label_sets
from lgkd.deploy.inference.load import Source
from lgkd.deploy.inference.predict import Prediction, predict_images

Progress = Callable[[int, int], None]


def classify(
    source: Source,
    names: Sequence[str | Path],
    files: Sequence[Path],
    *,
    top_k: int,
    explain: Path | None,
    say: Callable[[str], None],
    progress: Progress | None = None,
    explained: Progress | None = None,
) -> list[Prediction]:
    """Predict the images of `find_images`, with their true classes where their folders or tables have them.

    Args:
        source: the student.
        names: of files, folders, tables and patterns, as given.
        files: found by these names.
        top_k: classes per image, the most likely first.
        explain: a folder to write a picture per image to; None: none.
        say: called with messages for the user.
        progress, explained: called with (done, total) images that are predicted and drawn.
    """
    truths = None if source.multi_label else true_classes(names, files, source.classes, say=say)
    label_sets = true_label_sets(names) if source.multi_label else None
    read = reader_of(names)
    found = predict_images(
        source, files, top_k=top_k, truths=truths, label_sets=label_sets, read=read, progress=progress
    )
    return found if explain is None else explain_images(source, found, explain, read=read, progress=explained)
