"""Define the experiment of the field's other terms, parts of students and steps, on 10 % of CIFAR-100.

Rates are searched by `python -m tools.search_rates cifar100-10pct-field`; those here are the best ones of the unguided
student and of locality guidance (dev/LOG.md, 2026-11-28), and were not searched for the other arms yet.
"""

from dataclasses import replace

from lgkd.experiments.catalogue.two_cores import GUIDED, MUON, MUON_ALONE, TEACHER, UNGUIDED, tuned
from lgkd.experiments.spec import Arm, Experiment

_ALONE = replace(UNGUIDED, model="vit_96", options={})
_LOCALITY = replace(GUIDED, model="vit_96", options={})


def _term(kind: str, label: str) -> Arm:
    """Define a student guided by one term alone."""
    return tuned(_LOCALITY, kind, label, *MUON, f"guide.terms=[{{kind: {kind}}}]", against="unguided")


def _without_teacher(kind: str, label: str) -> Arm:
    """Define a student with a term that reads no teacher."""
    return tuned(_ALONE, kind, label, *MUON_ALONE, f"guide={{terms: [{{kind: {kind}}}]}}", against="unguided")


def _part(key: str, label: str, **options: str | int) -> Arm:
    """Define a guided student of another form."""
    return tuned(replace(_LOCALITY, options=options), key, label, *MUON, against="locality")


FIELD = (
    Experiment(
        name="cifar100-10pct-field",
        title="5,000 images: the rest of the field",
        question="Which other terms, forms of the student and steps help a small ViT with 50 images a class?",
        scale="2 cores",
        dataset="cifar100",
        part="10 %, 50 images of each class",
        seeds=(0, 1, 2),
        budget="about two and a half hours on one thread: a teacher of 7 minutes and 36 students, 3 to 8 minutes each "
        "(estimated)",
        arms=(
            TEACHER,
            tuned(_ALONE, "unguided", "small ViT, unguided", *MUON_ALONE),
            tuned(_LOCALITY, "locality", "locality guidance", *MUON, against="unguided"),
            _term("target-enhanced-kd", "logits with the target raised (OFA)"),
            _term("early-exits", "logits at exits (OFA)"),
            _term("crd", "contrastive representations (CRD)"),
            _without_teacher("dense-relative-localization", "positions, no teacher (DRLoc)"),
            _without_teacher("masked-images", "masked images, no teacher (SSAT)"),
            _part("registers", "locality guidance, 4 register tokens", register_tokens=4),
            _part("multiscale", "locality guidance, queries of three scales (LIFE)", qkv="multiscale"),
            _part("gaussian-mask", "locality guidance, Gaussian masks", attention="gaussian-mask"),
            tuned(
                replace(_LOCALITY, epochs=5),
                "sam",
                "locality guidance, SAM, half the steps",
                *MUON,
                "sam={rho: 0.05}",
                against="locality",
            ),
            tuned(
                _LOCALITY,
                "schedule-free",
                "locality guidance, schedule-free AdamW",
                "optimizer.name=schedule-free-adamw",
                "optimizer.lr=1e-2",
                against="locality",
            ),
        ),
        notes=(
            "Teacher and steps are those of cifar100-10pct-plus, the student is vit_96. With Muon but for the last "
            "arm; each term alone, with its published weight.",
        ),
    ),
)
