"""Match stored teachers with the decoded images: which were trained on these, and what the user should know of them."""

from collections.abc import Callable
from pathlib import Path

from lgkd.data.dataset import DataSet
from lgkd.data.prepare import Data
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_card import TeacherCard
from lgkd.runner.find_teacher import find_trained_teacher, is_run, of_these_images
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.store_teacher import poor_teacher
from lgkd.runner.timm_teacher import TimmTeacher

Found = Teacher | tuple[TeacherCard, Path] | TimmTeacher


def match_teachers(config: ResolvedConfig, data: Data, say: Callable[[str], None]) -> tuple[Found, ...]:
    """Choose, among stored teachers of a name, those that were trained on these very images.

    One of other images is accepted only under the name of this data set, and `describe_teacher` reports that.

    Args:
        config: with the teachers found by their names and classes.
        data: decoded.
        say: called with a message for each teacher that is stored under another data set's name.

    Raises:
        MissingTeacherError: one that was found by its classes was trained on other images.
    """
    return tuple(_matched(teacher, config, data, say) for teacher in config.teachers)


def _matched(
    teacher: Found,
    config: ResolvedConfig,
    data: Data,
    say: Callable[[str], None],
) -> Found:
    if not isinstance(teacher, tuple) or is_run(teacher[1]):
        return teacher
    card, prints = teacher[0], _fingerprints(data)
    found = teacher if card.fingerprint in prints else of_these_images(card, prints)
    if found is None:
        if card.dataset == data.key or isinstance(config.dataset, DataSet):
            return teacher
        # Of the same classes and other images: there is none, as the error says.
        return find_trained_teacher(card.name.partition("--")[0], config.dataset, subset=config.subset.text)
    if found[0].dataset != data.key:
        say(f"teacher {card.name}: stored under {found[0].dataset}, trained on the images of {data.source}")
    return found


def describe_teacher(teacher: Teacher, data: Data, say: Callable[[str], None]) -> None:
    """Report a teacher's accuracy and how its training images differ from these; nothing where neither is known."""
    card = teacher.card
    if card is None and "weights" in teacher.source:
        say(
            "teacher {name}, {weights}: trained on other images and classes; its accuracy on these is unknown, it "
            "guides by its maps".format(**teacher.source)
        )
    if card is None:
        return
    say(
        f"teacher {card.name}: {card.accuracy.shown} on {card.dataset} {card.accuracy.split}, "
        f"trained on {card.images:,} images"
    )
    if (poor := poor_teacher(card, data.test.largest_class)) is not None:
        say(poor)
    if card.subset != data.subset:
        say(
            f"the teacher saw {card.subset or 'all training images'}, the student sees "
            f"{data.subset or 'all of them'}: its guidance includes images that the student does not have"
        )
    if card.fingerprint not in _fingerprints(data):
        say(
            f"the teacher was trained on other images than those of {data.source}, or on these in another order "
            "(as an image folder and the publisher's archive do); the classes are the same"
        )


def _fingerprints(data: Data) -> set[str]:
    """Return the fingerprints of the images, with extra ones and without."""
    return {data.fingerprint, data.own_fingerprint}
