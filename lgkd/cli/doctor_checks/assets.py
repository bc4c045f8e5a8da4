"""Check the data sets and teachers that are available."""

from collections.abc import Iterator
from pathlib import Path

from lgkd.cli.doctor_checks.finding import Finding
from lgkd.data.catalogue import CATALOGUE, DataSetInfo, bundled, published
from lgkd.data.locations import files_here, target, tree_folder
from lgkd.data.sources.download import OFFLINE, is_offline
from lgkd.errors import DamagedError
from lgkd.models.teacher_store import list_cards, verify_weights

_NAMED = 6


def look_at_data(data_dir: Path | None) -> Iterator[Finding]:
    """Check every named data set: available, to be downloaded, or to be arranged by hand."""
    if is_offline():
        yield Finding("network", "ok", f"not used: {OFFLINE} is set, so nothing is downloaded")
    for info in CATALOGUE.values():
        yield Finding(f"data {info.name}", "ok", *_place_of(info, data_dir))


def _place_of(info: DataSetInfo, data_dir: Path | None) -> tuple[str, str]:
    files = published(info)
    if words := bundled(info):
        return f"here, {words}", ""
    if (tree := tree_folder(info, data_dir)) is not None:
        return f"here, as images in {tree}", ""
    if files and (found := files_here(info, data_dir)) is not None:
        return f"here, as the publisher's file{'' if len(files) == 1 else 's'} in {found}", ""
    if not files and info.lists:
        return "not here", f"lgkd arrange {info.name} SOURCE lays it out from the publisher's files"
    if not files:
        return "not here", f"put its images at {target(info, data_dir)}/train/CLASS/* and test/CLASS/*"
    size = sum(file.bytes for file in files)
    if is_offline():
        return "not here", f"put it where docs/errors.md says, or unset {OFFLINE}"
    return f"not here; the first training downloads it ({size / 1e6:,.0f} MB)", ""


def look_at_teachers() -> Iterator[Finding]:
    """Check the trained teachers, each against the checksum in its card."""
    cards, broken = list_cards()
    for file, reason in broken:
        yield Finding(f"teacher in {file.parent}", "problem", reason, "train it again, or remove the folder")
    sound = []
    for card, folder in cards:
        try:
            verify_weights(card, folder)
        except DamagedError as error:
            yield Finding(f"teacher {card.name} for {card.dataset}", "problem", error.found, error.advice)
            continue
        summary = f"{card.name} for {card.dataset} ({card.accuracy.value:.1%})"
        if (poor := card.no_better_than()) is not None:
            yield Finding(
                f"teacher {card.name} for {card.dataset}", "warning",
                f"{card.accuracy.shown} is {poor}",
                f"train it longer: lgkd train-teacher {card.architecture} {card.dataset} --replace",
            )  # fmt: skip
        else:
            sound.append(summary)
    if sound:
        more = f" and {len(sound) - _NAMED} more (lgkd teachers)" if len(sound) > _NAMED else ""
        yield Finding("teachers", "ok", ", ".join(sound[:_NAMED]) + more)
    elif not cards and not broken:
        yield Finding("teachers", "ok", "none yet", "make one: lgkd train-teacher resnet56 cifar100")
