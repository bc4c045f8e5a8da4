"""Check whether output folders are free, resumable, finished, or taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lgkd.config import Recipe
from lgkd.config.length_rules import without_teacher
from lgkd.data.dataset import DataSet
from lgkd.data.names import dataset_key
from lgkd.errors import InputError
from lgkd.runner.dry_run.dataset_outline import Counts, Outline
from lgkd.runner.record import describe_groups
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.sweep import SweepRun
from lgkd.runs.folder import check_free, has_checkpoint, is_finished
from lgkd.runs.identity import check_finished_run, check_resumable


@dataclass(frozen=True)
class ExpectedRun:
    """Hold the identity of a training as far as it is known before an image is decoded.

    Attributes:
        info: the expected content of its run.json.
        recipe: complete.
        unknown: dotted keys that are not known yet.
        force: whether a run that differs may be resumed.
    """

    info: Mapping[str, Any]
    recipe: Recipe
    unknown: frozenset[str]
    force: bool

    @classmethod
    def of(cls, config: ResolvedConfig, found: Outline, counts: Counts, info: Mapping[str, Any]) -> "ExpectedRun":
        """Describe the training of a configuration.

        Args:
            config: of the training.
            found, counts: its images.
            info: run.json of the training on generated images instead.
        """
        options, source = config.options, config.dataset
        extra = options.get("extra")
        divided = bool(options.get("val_fraction")) or found.flat or config.subset.folds is not None
        about: dict[str, Any] = {
            **info["dataset"],
            "name": dataset_key(source.name if isinstance(source, DataSet) else source),
            "fingerprint": found.fingerprint,
            "train_images": counts.images,
            "test_images": found.test,
            "val_images": counts.held_out or None,
            "subset": config.subset.text,
            "groups": describe_groups(config.groups or (found.groups if divided else None), flat=found.flat),
        }
        unknown = set() if found.fingerprint is not None else {"dataset.fingerprint", "dataset.greys"}
        if found.val:
            unknown.add("dataset.val_fingerprint")
        if extra is not None:
            unknown |= {"dataset.extra", "dataset.fingerprint"}
        if not found.named:
            # Subsets of a publisher's set are counted from the catalogue, as if its classes had equal size.
            unknown |= {"dataset.train_images", "dataset.val_images", "steps_per_epoch", "init.classifier"}
        if config.subset.fold is not None:
            # Of the members of a cross-validation one is measured.
            unknown |= {"dataset.subset", "dataset.train_images", "dataset.test_images", "dataset.val_images",
                        "steps_per_epoch", "teacher.sha256", "teacher.subset", "teacher.kept_as",
                        "teacher.test_top1", "teacher.test_map"}  # fmt: skip
        if options.get("leave_out_near_copies"):
            # Images have to be decoded to find them.
            unknown |= {"dataset.near_copies_left_out", "dataset.train_images", "dataset.val_images", "steps_per_epoch"}
        for key, one in (("teacher", info["teacher"]), *enumerate(info["more_teachers"])):
            if one is not None and "weights" in one and one["sha256"] is None:  # it is not downloaded for a dry run
                unknown.add("teacher.sha256" if key == "teacher" else f"more_teachers.{key}.sha256")
        if options.get("stored_side") is not None:
            unknown.add("dataset.stored_side")
        if options.get("cached") is not None:
            unknown |= {"cached", "recipe.view.fixed"}
        recipe = config.recipe
        return cls({**info, "dataset": about}, recipe, frozenset(unknown), bool(options.get("force")))

    def as_member(self, member: SweepRun) -> tuple[dict[str, Any], Recipe]:
        """Return the expected run.json and recipe of one run of a sweep."""
        info = {**self.info, "seed": member.seed}
        if member.guided:
            return info, self.recipe
        kind = "teacher" if info["kind"] == "teacher" else "train"
        plain = {**info, "kind": kind, "teacher": None, "more_teachers": [], "pairs": [], "cached": None}
        return plain, without_teacher(self.recipe)


def check_existing_runs(
    expected: ExpectedRun, members: Sequence[SweepRun], *, keep: bool
) -> tuple[bool, list[str], list[str]]:
    """Check every output folder, as the training does before it starts; nothing is touched.

    Args:
        expected: the requested training.
        members: its runs.
        keep: whether finished runs of the very same training are accepted.

    Returns:
        Whether an unfinished run would be resumed; problems; remarks.
    """
    goes_on, problems, cautions = False, list[str](), list[str]()
    for member in members:
        folder, (info, recipe) = member.folder, expected.as_member(member)
        try:
            if keep and is_finished(folder):
                check_finished_run(folder, info, recipe, say=cautions.append, unknown=expected.unknown)
            elif not check_free(folder):
                check_resumable(
                    folder, info, recipe, force=expected.force, say=cautions.append, unknown=expected.unknown
                )
                goes_on |= has_checkpoint(folder)
        except InputError as error:
            problems.append(str(error))
    return goes_on, problems, cautions
