"""Write an inspection's tables and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.csv_tables import table
from lgkd.analysis.inspect.attention_capture import read
from lgkd.analysis.inspect.attention_distance import between_patches
from lgkd.analysis.inspect.corruptions import STRENGTHS, corrupt
from lgkd.analysis.inspect.figures import (
    Column,
    Distances,
    draw_corruptions,
    draw_distances,
    draw_maps,
    draw_similarities,
    energy,
)
from lgkd.analysis.inspect.measure import Measured
from lgkd.data.dataset import Images
from lgkd.distillation.features import FeatureReader, FeatureSpec
from lgkd.distillation.taps import Tap
from lgkd.errors import TapError
from lgkd.models.default_taps import default_taps
from lgkd.models.teacher import Teacher
from lgkd.runner.loaded_run import Opened
from lgkd.training.evaluate import answer

_MOST_NAMED, _LONGEST = 3, 20


def tell_distances(folder: Path, students: Sequence[Measured]) -> list[str]:
    """Write attention-distance.csv and .png; return sentences on layers whose attention cannot be read."""
    shown = [
        Distances(one.who, list(one.distances), list(one.distances.values()), [one.even[key] for key in one.distances])
        for one in students
        if one.distances
    ]
    rows = [
        {"who": one.who, "layer": layer, "head": head, "distance_px": round(distance, 4),
         "even_attention_px": round(even, 4)}
        for one in shown
        for layer, heads, even in zip(one.layers, one.heads, one.even, strict=True)
        for head, distance in enumerate(heads)
    ]  # fmt: skip
    if shown:
        write_csv(folder / "attention-distance.csv", rows)
        draw_distances(folder / "attention-distance.png", shown)
    return [
        f"{one.who}: no attention distance of {_listed([key for key, why in one.unseen.items() if why == reason])}: "
        f"{reason}"
        for one in students
        for reason in dict.fromkeys(one.unseen.values())
    ]


def tell_similarities(folder: Path, students: Sequence[Measured], teacher: Teacher) -> None:
    """Write similarity.csv and .png: CKA of every layer with the teacher's taps."""
    shown = [(one.who, one.layers, one.similarity) for one in students if one.similarity is not None]
    rows = [
        {"who": who, "layer": layer, "teacher_layer": theirs, "cka": round(value, 4)}
        for who, layers, values in shown
        for layer, line in zip(layers, values.tolist(), strict=True)
        for theirs, value in zip(teacher.taps, line, strict=True)
    ]
    write_csv(folder / "similarity.csv", rows)
    draw_similarities(folder / "similarity.png", shown, teacher.taps)


def tell_corruptions(
    folder: Path, students: Sequence[Measured], images: Images
) -> tuple[dict[str, float], dict[str, dict[str, list[float]]]]:
    """Write corruptions.csv and .png: accuracy on the original images, and under every kind and severity."""
    clean = {one.who: _accuracy(one.opened, images) for one in students}
    found: dict[str, dict[str, list[float]]] = {}
    rows: list[dict[str, Any]] = [
        {"corruption": "none", "severity": 0, "strength": "", "who": who, "top1": value} for who, value in clean.items()
    ]
    for kind, strengths in STRENGTHS.items():
        found[kind] = {one.who: [] for one in students}
        for severity, strength in enumerate(strengths, 1):
            changed = corrupt(images, kind, severity)
            for one in students:
                top1 = _accuracy(one.opened, changed)
                found[kind][one.who].append(top1)
                rows.append(
                    {"corruption": kind, "severity": severity, "strength": strength, "who": one.who, "top1": top1}
                )
    write_csv(folder / "corruptions.csv", rows)
    draw_corruptions(folder / "corruptions.png", clean, found)
    return clean, found


def _accuracy(opened: Opened, images: Images) -> float:
    said = answer(
        opened.student,
        opened.batches(images),
        precision=opened.precision,
        channels_last=opened.channels_last,
    )
    return float(said.right.double().mean())


def draw_attention(folder: Path, students: Sequence[Measured], images: Images) -> None:
    """Draw attention-maps.png: attention of the middle patch, in the first, middle and last readable block."""
    columns = []
    for one in students:
        layers = list(one.distances)
        if not layers:
            continue
        opened = one.opened
        pictures = torch.cat([batch for batch, _ in opened.batches(images)])
        seen = read(opened.student, one.layers, pictures)
        hint = getattr(opened.student, "num_prefix_tokens", None)
        for layer in dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])):
            among = between_patches(
                seen.weights[layer], seen.outputs[layer], opened.image_size, hint if isinstance(hint, int) else None
            )
            rows, across = among.grid
            middle = (rows // 2) * across + across // 2
            looked_BM = among.weights[:, :, middle].mean(dim=1)
            mark = ((across // 2 + 0.5) / across, (rows // 2 + 0.5) / rows)
            columns.append(Column(f"{one.who}\n{layer}", list(looked_BM.reshape(-1, *among.key_grid)), mark))
    if columns:
        _draw(folder / "attention-maps.png", images, columns)


def draw_features(folder: Path, students: Sequence[Measured], images: Images, teacher: Teacher | None) -> list[str]:
    """Draw feature-maps.png: differences from the mean of the maps at the taps of each student and the teacher."""
    columns, remarks = [], []
    for one in students:
        opened = one.opened
        pictures = torch.cat([batch for batch, _ in opened.batches(images)])
        try:
            columns += _features(one.who, opened.student, default_taps(opened.student), pictures)
        except TapError as error:
            remarks.append(f"{one.who}: no feature maps: {error}")
    if teacher is not None:
        opened = students[0].opened
        mean, std = (torch.tensor(values, device=opened.device).view(-1, 1, 1) for values in opened.normalisation)
        pictures = torch.cat([batch for batch, _ in opened.batches(images)])
        columns += _features("teacher", teacher.model, teacher.taps, teacher.view(pictures, mean, std))
    if columns:
        _draw(folder / "feature-maps.png", images, columns)
    return remarks


def _features(who: str, model: torch.nn.Module, layers: Sequence[str], pictures: Tensor) -> list[Column]:
    height, width = pictures.shape[-2:]
    reader = FeatureReader(
        model, [Tap.of(layer) for layer in layers], FeatureSpec(maps=True), (int(height), int(width))
    )
    taps = reader.attach(model)
    try:
        with torch.no_grad():
            _, seen = taps.capture(model, pictures)
    finally:
        taps.remove()
    maps = reader.features(None, seen).maps
    return [
        Column(f"{who}\n{layer}", [energy(one) for one in map_BChw])
        for layer, map_BChw in zip(layers, maps, strict=True)
    ]


def _draw(path: Path, images: Images, columns: Sequence[Column]) -> None:
    images.check()
    sizes = images.sizes.tolist()
    pictures = [images.pixels[place, :, :height, :width] for place, (height, width) in enumerate(sizes)]
    names = [name.split("/", 1)[-1] for name in images.names]
    draw_maps(path, pictures, [name if len(name) <= _LONGEST else f"…{name[-_LONGEST:]}" for name in names], columns)


def _listed(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - _MOST_NAMED} more" if len(layers) > _MOST_NAMED else ""
    return ", ".join(layers[:_MOST_NAMED]) + more


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table atomically."""
    write_atomic(path, table(list(rows[0]), rows))
