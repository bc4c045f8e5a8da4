"""Define experiments of minutes, on any CPU."""

from dataclasses import replace

from lgkd.experiments.spec import Arm, Experiment

_TEACHER = Arm(
    key="teacher",
    label="ResNet-8, the teacher",
    model="resnet8",
    recipe="teacher-short",
    role="teacher",
    # The training and view of the recipe quickstart, by which `lgkd quickstart` trains its teachers.
    image_size=8,
    epochs=60,
    batch_size=32,
    overrides=(
        "optimizer.name=adamw",
        "optimizer.lr=2e-3",
        "optimizer.weight_decay=0.05",
        "schedule.warmup_epochs=3",
        "schedule.warmup_factor=1e-3",
        "schedule.min_lr=1e-5",
        "view.crop=random-resized",
        "view.scale=[0.6, 1.0]",
        "view.interpolation=bilinear",
        "view.flip=0.0",
        "view.normalize=dataset",
        "precision=fp32",
        "evaluate_every=60",
    ),
    images_per_class=20,
    seeds=(0,),
)
_UNGUIDED = Arm(
    key="unguided",
    label="small ViT, unguided",
    model="lgkd.quickstart:small_vit",
    recipe="quickstart",
    images_per_class=20,
)
_GUIDED = replace(_UNGUIDED, key="guided", label="small ViT, guided", teacher="teacher", against="unguided")

MINUTES = (
    Experiment(
        name="digits",
        title="200 digits: a small ViT with a guide",
        question="Does a small CNN that saw the same 200 digits help a small transformer to learn them?",
        scale="minutes",
        dataset="digits",
        part="20 images of each class",
        seeds=(0, 1, 2),
        budget="about a minute and a half on one thread: a teacher and six students, some ten seconds each",
        arms=(_TEACHER, _UNGUIDED, _GUIDED),
        notes=(
            "The students and their settings are those of `lgkd quickstart`, which were chosen on held-out training "
            "images. There every seed draws its own images and trains its own teacher; here all share both.",
        ),
    ),
)
