"""Build the parts of a report that show single images: the surest mistakes, and what guidance changed."""

from markupsafe import Markup

from lgkd.analysis.report.context import Known
from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.metrics import put_right, surest_mistakes
from lgkd.analysis.report.sentences import name_of
from lgkd.analysis.report.thumbnails import embedded
from lgkd.data.dataset import Images
from lgkd.training.evaluate import Answers

_MOST = 12


def surest(known: Known, ours: Answers, images: Images) -> list[Markup]:
    """Build the mistakes of highest confidence: those of a wrong label, or of what the student did not learn."""
    wrong = int((~ours.right).sum())
    if not wrong:
        return [blocks.paragraphs(["There is no mistake among the test images."])]
    text = (
        f"Of {wrong:,} mistakes of {name_of(known.chosen.main)} the most confident ones, the surest of every class "
        "first. Some may be wrong labels."
    )
    shown = [_example(known, [("predicted", ours)], images, place) for place in surest_mistakes(ours, _MOST)]
    return [blocks.paragraphs([text]), blocks.gallery(shown)]


def changed(known: Known, ours: Answers, images: Images) -> list[Markup]:
    """Build the images that the guided student gets right and the baseline does not, and the other way round."""
    theirs = known.baseline_answers
    if theirs is None:
        return [blocks.paragraphs(["No baseline was given: what guidance changed cannot be seen in one run."])]
    right, wrong = int((~theirs.right & ours.right).sum()), int((theirs.right & ~ours.right).sum())
    text = (
        f"Of {len(ours.labels):,} test images guidance corrected {right:,} mistakes and added {wrong:,}. {known.which} "
        "In turn of every class the image whose true class gained or lost most confidence."
    )
    better, worse = put_right(theirs, ours, _MOST), put_right(ours, theirs, _MOST)
    both = [("now", ours), ("baseline", theirs)]
    return [
        blocks.paragraphs([text]),
        blocks.examples("Corrected", [_example(known, both, images, place) for place in better]),
        blocks.examples("New mistakes", [_example(known, both, images, place) for place in worse]),
    ]


def _example(known: Known, answers: list[tuple[str, Answers]], images: Images, place: int) -> dict[str, object]:
    """Build one image with its class and the predictions."""
    true = known.classes[int(answers[0][1].labels[place])]
    lines = [
        f"{who}: {known.classes[int(one.guesses[place])]} ({float(one.confidences[place]):.0%})" for who, one in answers
    ]
    alt = f"test image {images.names[place]}, which shows {true}"
    return {**embedded(images, place), "alt": alt, "true": true, "lines": lines}
