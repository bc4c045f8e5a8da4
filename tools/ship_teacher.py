"""Write a trained teacher into teachers/, in half precision: `python -m tools.ship_teacher NAME DATASET`.

The teacher is the one of the store ($LGKD_HOME). What its card says afterwards is measured with the weights as they are
shipped, on all test images; nothing is written if they are worse than the ones of the training by a tenth of a point.
"""

import argparse
from pathlib import Path

import torch

from lgkd._internal.manifest import write_manifest
from lgkd._internal.paths import teachers_folder
from lgkd._internal.safetensors_io import load_weights, save_weights
from lgkd.config import load_recipe
from lgkd.data.prepare import make_test_batches, prepare_data
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_card import Accuracy, TeacherCard
from lgkd.models.teacher_store import CARD, WEIGHTS, find_card, save_card
from lgkd.runner.build import load_trained_teacher
from lgkd.training.evaluate import Scores, score

_MOST_LOST = 0.001


def scores_of(teacher: Teacher, data_dir: str | Path | None) -> Scores:
    """Score a teacher on all test images of its data set, resized as the recipe that trained it resizes them."""
    card = teacher.card
    assert card is not None
    data = prepare_data(card.dataset, normalize="imagenet", data_dir=data_dir, offline=True)
    assert data.fingerprint == card.fingerprint, "other images than those it was trained on"
    size = (card.image_size, card.image_size)
    interpolation = load_recipe(card.recipe).test_interpolation
    batches = make_test_batches(
        data.test, image_size=size, mean=card.mean, std=card.std, interpolation=interpolation, device="cpu"
    )
    return score(teacher.model, batches, channels_last=True)


def ship(name: str, dataset: str, data_dir: str | Path | None, target: Path) -> TeacherCard:
    """Write `target`/DATASET/NAME/ and return its card."""
    card, folder = find_card(name, dataset)
    teacher = load_trained_teacher(name, dataset)
    before = scores_of(teacher, data_dir).top1
    tensors = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in load_weights(folder / WEIGHTS, card.weights_sha256).items()
    }
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values()), "too large for half precision"
    teacher.model.load_state_dict(tensors)
    after = scores_of(teacher, data_dir).top1
    print(f"{name} on {dataset}: {before:.2%} as trained (its card: {card.accuracy.top1:.2%}), {after:.2%} as shipped")
    assert after > before - _MOST_LOST, "half precision costs too much"
    place = target / dataset / name
    place.mkdir(parents=True, exist_ok=True)
    sha256 = save_weights(tensors, place / WEIGHTS)
    accuracy = Accuracy(**{**card.accuracy.model_dump(), "top1": round(after, 6)})
    shipped = card.model_copy(update={"weights_sha256": sha256, "accuracy": accuracy})
    save_card(shipped, place)
    write_manifest(place, (CARD, WEIGHTS))
    print(f"{place}: {(place / WEIGHTS).stat().st_size:,} bytes")
    return shipped


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("name")
    words.add_argument("dataset")
    words.add_argument("--data-dir")
    given = words.parse_args()
    ship(given.name, given.dataset, given.data_dir, teachers_folder())
