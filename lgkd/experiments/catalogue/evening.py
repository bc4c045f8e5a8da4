"""Define the experiment of an evening on a CPU: CIFAR-100 by a plain ViT, its teacher's minutes included.

Teacher, tokeniser, batch and lengths were chosen on held-out training images (dev/LOG.md, 2026-11-30).
"""

from dataclasses import replace

from lgkd.experiments.catalogue.deit import BEST, README
from lgkd.experiments.spec import Arm, Experiment, Quoted

_STEPS_AN_EPOCH = 781


def _steps(count: int) -> tuple[str, ...]:
    """Set the length in steps, an eighth of it warm-up as in the recipe, and evaluate twice."""
    warm_up = round(count / 8 / _STEPS_AN_EPOCH, 2)
    return "schedule.epochs=null", f"schedule.steps={count}", f"schedule.warmup_epochs={warm_up}", "evaluations=2"


_TEACHER = Arm(
    key="teacher-40",
    label="40 minutes: FastNet for guidance, the teacher, 7 epochs",
    model="fastnet_guide",
    recipe="teacher-fast",
    role="teacher",
    overrides=("label_smoothing=0",),
    epochs=7,
    seeds=(0,),
)
_UNGUIDED = Arm(
    key="unguided-40",
    label="40 minutes: ViT of width 128, unguided",
    model="vit_128",
    recipe="fast",
    options={"tokenizer": "conv", "conv_layers": 2, "conv_width": 32},
    batch_size=64,
    overrides=("guide=null", "optimizer.lr=3e-3", *_steps(6200)),
    quoted=(Quoted(65.08, f"unguided DeiT-Ti at 224 px, 300 epochs; {BEST}", README),),
)
_GUIDED = replace(
    _UNGUIDED,
    key="guided-40",
    label="40 minutes: ViT of width 128, guided",
    overrides=_steps(2600),
    teacher="teacher-40",
    against="unguided-40",
    quoted=(Quoted(78.15, f"guided DeiT-Ti at 224 px, 300 epochs; {BEST}", README),),
)
_LONG_TEACHER = replace(
    _TEACHER,
    key="teacher-120",
    label="120 minutes: FastNet for guidance, large, the teacher, 15 epochs",
    model="fastnet_guide_large",
    overrides=("view.erase=0.25",),  # and the recipe's smoothed labels: 18 epochs without both overfitted
    epochs=15,
)
# A larger student, as capacity pays under guidance.
_LONG_UNGUIDED = replace(
    _UNGUIDED,
    key="unguided-120",
    label="120 minutes: ViT of width 192, unguided",
    model="vit_192",
    overrides=("guide=null", "optimizer.lr=3e-3", *_steps(14000)),
    quoted=(Quoted(73.81, "unguided ViT of 2.8 M parameters at 32 px, 100 epochs", "Lee et al., arXiv 2112.13492"),),
)
_LONG_GUIDED = replace(
    _GUIDED,
    key="guided-120",
    label="120 minutes: ViT of width 192, guided",
    model="vit_192",
    overrides=_steps(7500),
    teacher="teacher-120",
    against="unguided-120",
)
EVENING = (
    Experiment(
        name="cifar100-evening",
        title="CIFAR-100 in an evening on a CPU",
        question="How good does a ViT become on all of CIFAR-100 in 40 and 120 minutes of one core, teacher included?",
        scale="2 cores",
        dataset="cifar100",
        part="all 50,000",
        seeds=(0, 1),
        budget="about nine hours on one thread: teachers of 20 and 50 minutes, two students an arm of 20 to 120",
        arms=(_TEACHER, _UNGUIDED, _GUIDED, _LONG_TEACHER, _LONG_UNGUIDED, _LONG_GUIDED),
        notes=(
            "A run takes minutes of processor time on one core, start-up and evaluations included. Each arm has the "
            "rate that was best for its kind of student elsewhere: 1e-2 guided, 3e-3 unguided.",
        ),
    ),
)
