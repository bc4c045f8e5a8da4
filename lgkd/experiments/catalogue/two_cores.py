"""Define experiments for two CPU cores: 10 % of CIFAR-100 and similar, 780 steps of 64 images a student.

The small student's rate is between the best ones, on held-out training images, without a guide and with one
(dev/LOG.md, 2026-11-28), where guidance-plus was searched too. Other settings were fixed before the first run.
"""

from dataclasses import replace
from typing import Any

from lgkd.experiments.spec import Arm, Experiment

_GENTLE = ("view.crop=pad", "view.rand_augment=null", "view.erase=0")
_STEPPED = ("schedule.stepped=step", *_GENTLE)
_SHORT = ("optimizer.lr=3e-3", *_STEPPED)
_SEEDS = (0, 1)

TEACHER = Arm(
    key="teacher",
    label="ResNet-20, the teacher",
    model="resnet20",
    recipe="teacher",
    role="teacher",
    epochs=40,
    batch_size=64,
    overrides=("optimizer.lr=0.05", *_GENTLE, "evaluate_every=20"),
    fraction=0.1,
    seeds=(0,),
)
UNGUIDED = Arm(
    key="unguided",
    label="small ViT, unguided",
    model="deit_tiny",
    recipe="supervised",
    options={"patch_size": 4, "depth": 6, "embed_dim": 96, "num_heads": 3},
    image_size=32,
    epochs=10,
    batch_size=64,
    overrides=(*_SHORT, "evaluate_every=5"),
    fraction=0.1,
)
GUIDED = replace(
    UNGUIDED,
    key="locality",
    label="locality guidance",
    recipe="locality-guidance",
    teacher="teacher",
    against="unguided",
)


def _method(key: str, label: str, *terms: str) -> Arm:
    return replace(GUIDED, key=key, label=label, overrides=(*GUIDED.overrides, *terms))


_METHODS = Experiment(
    name="cifar100-10pct-methods",
    title="5,000 images: ways to distil",
    question="With 50 images a class and 780 steps, which way of learning from a small CNN helps a small ViT most?",
    scale="2 cores",
    dataset="cifar100",
    part="10 %, 50 images of each class",
    seeds=_SEEDS,
    budget="about an hour and a half on one thread: a teacher and 14 students, 4 to 6 minutes each (measured, bf16)",
    arms=(
        TEACHER,
        UNGUIDED,
        GUIDED,
        replace(GUIDED, key="all-blocks", label="all blocks, adaptive stop", recipe="adaptive-guidance"),
        _method("kd", "KD", "guide.terms=[{kind: kd}]", "guide.classification_weight=0.1"),
        _method(
            "standardized-kd",
            "KD of standardised logits",
            "guide.terms=[{kind: standardized-kd, eps: 0.1}]",
            "guide.classification_weight=0.1",
        ),
        _method(
            "maps-and-logits",
            "maps and standardised logits",
            "guide.terms=[{kind: locality}, {kind: standardized-kd, temperature: 2.0, eps: 0.1, weight: 3.0}]",
        ),
        _method("attention-transfer", "attention transfer", "guide.terms=[{kind: attention-transfer}]"),
    ),
    notes=(
        "A student of width 96 and depth 6 on patches of 4 at 32 px; the teacher saw the same images. All at one rate "
        "of AdamW, 3e-3: on held-out images the unguided student did a little better at 1e-3, the guided one at 1e-2.",
    ),
)

_PVT_UNGUIDED = replace(
    UNGUIDED,
    label="PVTv2-B0, unguided",
    model="pvt_v2_b0",
    options={},
    image_size=64,
    overrides=("optimizer.lr=1e-3", *_STEPPED, "evaluate_every=5"),
)
_PVT = Experiment(
    name="cifar100-10pct-pvt",
    title="5,000 images: PVTv2-B0 with a guide",
    question="How much does guidance help a pyramid transformer that learns well from few images without it?",
    scale="2 cores",
    dataset="cifar100",
    part="10 %, 50 images of each class",
    seeds=_SEEDS,
    budget="35 minutes on one thread: a teacher of 9 minutes and 4 students, 6 to 7 minutes each (measured, bf16)",
    arms=(
        TEACHER,
        _PVT_UNGUIDED,
        replace(
            _PVT_UNGUIDED,
            key="locality",
            label="PVTv2-B0, locality guidance",
            recipe="locality-guidance",
            teacher="teacher",
            against="unguided",
        ),
    ),
)


def _with_images(count: int) -> tuple[Arm, Arm, Arm]:
    """Define teacher, unguided and guided student of `count` images a class, with the steps of 50 images a class."""
    teacher_epochs, epochs = {10: (208, 52), 25: (80, 20), 50: (40, 10), 100: (20, 5)}[count]
    teacher = replace(
        TEACHER,
        key=f"teacher-{count}",
        label=f"{count} a class: ResNet-20, the teacher",
        epochs=teacher_epochs,
        overrides=("optimizer.lr=0.05", *_GENTLE, f"evaluate_every={teacher_epochs // 2}"),
        fraction=None,
        images_per_class=count,
    )
    alone = replace(
        UNGUIDED,
        key=f"unguided-{count}",
        label=f"{count} a class: unguided",
        epochs=epochs,
        overrides=(*_SHORT, f"evaluate_every={epochs // 2}"),
        fraction=None,
        images_per_class=count,
    )
    guided = replace(
        alone,
        key=f"locality-{count}",
        label=f"{count} a class: locality guidance",
        recipe="locality-guidance",
        teacher=teacher.key,
        against=alone.key,
    )
    return teacher, alone, guided


_CURVE = Experiment(
    name="cifar100-images-per-class",
    title="10 to 100 images a class",
    question="How does the gain by guidance change with the number of images, at a fixed number of steps?",
    scale="2 cores",
    dataset="cifar100",
    part="10, 25, 50 and 100 images of each class",
    seeds=_SEEDS,
    budget="about two hours on one thread: 4 teachers and 16 students, 4 to 6 minutes each (as measured at 50 a class)",
    arms=tuple(arm for count in (10, 25, 50, 100) for arm in _with_images(count)),
    notes=(
        "Every student takes 780 steps of 64 images, every teacher 3,120: with fewer images each comes more often. "
        "Each teacher saw the images of its students. All students at one rate of AdamW, 3e-3, see "
        "cifar100-10pct-methods.",
    ),
)

# Each at the best rate that was tried for it on held-out training images.
_ADAMW_ALONE, _ADAMW = ("optimizer.lr=1e-3",), ("optimizer.lr=1e-2",)
_TURNED = ("optimizer.name=muon", "optimizer.momentum=0.95")
MUON_ALONE, MUON = (*_TURNED, "optimizer.lr=3e-3"), (*_TURNED, "optimizer.lr=1e-2")


def tuned(arm: Arm, key: str, label: str, *changes: str, **more: Any) -> Arm:
    """Copy an arm with changes of its recipe, moved at every step and evaluated twice."""
    return replace(arm, key=key, label=label, overrides=(*changes, *_STEPPED, "evaluate_every=5"), **more)


_PLUS = Experiment(
    name="cifar100-10pct-plus",
    title="5,000 images: guidance-plus",
    question=(
        "Is guidance-plus two points better than locality guidance at the best rate tried for it, and what of that "
        "is the optimiser's?"
    ),
    scale="2 cores",
    dataset="cifar100",
    part="10 %, 50 images of each class",
    seeds=(0, 1, 2),
    budget="about an hour on one thread: a teacher of 6 minutes and 15 students, 3 to 4 minutes each",
    arms=(
        TEACHER,
        tuned(UNGUIDED, "unguided", "small ViT, unguided, AdamW", *_ADAMW_ALONE),
        tuned(GUIDED, "locality", "locality guidance, AdamW", *_ADAMW, against=None),
        tuned(UNGUIDED, "unguided-muon", "small ViT, unguided, Muon", *MUON_ALONE),
        tuned(GUIDED, "locality-muon", "locality guidance, Muon", *MUON, against="locality"),
        tuned(GUIDED, "plus", "guidance-plus", recipe="guidance-plus", against="locality"),
    ),
    notes=(
        "The student, the teacher's training and the steps are those of cifar100-10pct-methods. Searched on held-out "
        "training images with seed 0 (dev/LOG.md, 2026-11-28): the rates of AdamW (1e-3 without a guide, 1e-2 with "
        "one) and of Muon (3e-3 and 1e-2), and guidance-plus, whose optimiser is Muon at 1e-2.",
    ),
)

_DEFAULT_TAPS = tuned(
    replace(GUIDED, taps=("blocks.0", "blocks.3", "blocks.5")),
    "taps-0-3-5",
    "blocks 0, 3, 5: the last one is guided",
    *MUON,
    against=None,
)
_TAPS = Experiment(
    name="cifar100-taps",
    title="5,000 images: free last blocks",
    question="Does a plain ViT of six blocks learn more if the last guided block is not its last one?",
    scale="2 cores",
    dataset="cifar100",
    part="10 %, 50 images of each class",
    seeds=(0, 1, 2),
    budget="about 45 minutes on one thread: a teacher of 7 minutes and 9 students of 4 minutes each",
    arms=(
        TEACHER,
        _DEFAULT_TAPS,
        replace(
            _DEFAULT_TAPS,
            key="taps-0-2-4",
            label="blocks 0, 2, 4: one free block",
            taps=("blocks.0", "blocks.2", "blocks.4"),
            against=_DEFAULT_TAPS.key,
        ),
        replace(
            _DEFAULT_TAPS,
            key="taps-0-2-3",
            label="blocks 0, 2, 3: two free blocks",
            taps=("blocks.0", "blocks.2", "blocks.3"),
            against=_DEFAULT_TAPS.key,
        ),
    ),
    notes=(
        "Student, teacher and steps are those of cifar100-10pct-plus, with Muon at 1e-2. The published runs that "
        "suggest it guide block 11 of 12, 13 and 14 blocks (300 architectures of Auto-Prox).",
    ),
)


def _label_free(key: str, label: str, term: str) -> Arm:
    terms = f"guide.terms=[{{kind: {term}}}]"
    return tuned(GUIDED, key, label, *MUON, terms, against="unguided")


_LABEL_FREE = Experiment(
    name="cifar100-10pct-label-free",
    title="5,000 images: label-free terms",
    question="Do terms that read no labels and project no maps help a small ViT, beside the labels, as locality does?",
    scale="2 cores",
    dataset="cifar100",
    part="10 %, 50 images of each class",
    seeds=(0, 1, 2),
    budget="about 75 minutes on one thread: a teacher of 7 minutes and 15 students of 4 to 5 minutes each (estimated)",
    arms=(
        TEACHER,
        tuned(UNGUIDED, "unguided", "small ViT, unguided", *MUON_ALONE),
        tuned(GUIDED, "locality", "locality guidance", *MUON, against="unguided"),
        _label_free("dense-kd", "dense logits, local to global", "dense-kd"),
        _label_free("token-relations", "relations of tokens within an image", "token-relations"),
        _label_free("teacher-head", "the teacher's classifier on the student's features", "teacher-head"),
    ),
    notes=(
        "Student, teacher and steps are those of cifar100-10pct-plus. All with Muon: the unguided student at 3e-3 and "
        "locality guidance at 1e-2, the best rates tried there; the other terms at 1e-2 and with their published "
        "weights.",
    ),
)

TWO_CORES = (_METHODS, _PVT, _CURVE, _PLUS, _TAPS, _LABEL_FREE)
