"""Define other students on CIFAR-100, guided by a ResNet-56 at 32 px; for a GPU."""

from dataclasses import replace

from lgkd.experiments.catalogue.deit import BEST, IMAGES, README, REPLICA, RESNET56
from lgkd.experiments.spec import Arm, Experiment, Quoted

_PVT_UNGUIDED = Arm(
    key="unguided",
    label="PVTv2-B0, unguided",
    model="pvt_v2_b0",
    recipe="supervised",
    quoted=(Quoted(77.44, BEST, README),),
)
_PVT_GUIDED = replace(
    _PVT_UNGUIDED,
    key="locality",
    label="locality guidance",
    recipe="locality-guidance",
    teacher=RESNET56.name,
    against="unguided",
    quoted=(),
)
PVT = Experiment(
    name="cifar100-pvtv2",
    title="PVTv2-B0 with a guide, 224 px",
    question="How much does guidance help a pyramid transformer with all images and 300 epochs?",
    scale="full",
    dataset="cifar100",
    part="all 50,000",
    seeds=(0,),
    budget=IMAGES,
    arms=(
        _PVT_UNGUIDED,
        replace(
            _PVT_GUIDED,
            key="locality-batch",
            label="locality guidance, BatchNorm by batch",
            overrides=REPLICA,
            quoted=(Quoted(79.30, BEST, README),),
        ),
        _PVT_GUIDED,
    ),
    borrowed=RESNET56,
)

_DHVT_UNGUIDED = Arm(
    key="unguided",
    label="DHVT-T/2, unguided",
    model="dhvt_tiny",
    recipe="supervised",
    options={"patch_size": 2},
    image_size=32,
    batch_size=512,
    overrides=(
        "optimizer.lr=1e-3",
        "schedule.warmup_epochs=5",
        "schedule.min_lr=1e-5",
        "view.crop=pad",
        "view.repeats=3",
        "mix.mixup=0.8",
        "mix.cutmix=1.0",
        "label_smoothing=0.1",
    ),
    quoted=(Quoted(83.54, "best of five seeds", "arXiv 2210.05958, Table 4"),),
)
DHVT = Experiment(
    name="cifar100-dhvt",
    title="DHVT-T/2 at 32 px, with a guide",
    question="Does guidance help a transformer that was built for few images? Nobody has published that.",
    scale="full",
    dataset="cifar100",
    part="all 50,000",
    seeds=(0,),
    budget="15 million images at 32 px a run, not timed here yet",
    arms=(
        _DHVT_UNGUIDED,
        replace(
            _DHVT_UNGUIDED,
            key="locality",
            label="DHVT-T/2, locality guidance",
            recipe="locality-guidance",
            teacher=RESNET56.name,
            against="unguided",
            quoted=(),
        ),
    ),
    borrowed=RESNET56,
    notes=(
        "Their code also averages weights (0.99996) and adds ten epochs at the lowest rate; neither is done here. How "
        "often it repeats an image in a batch is not known here: three times, as is usual.",
    ),
)
