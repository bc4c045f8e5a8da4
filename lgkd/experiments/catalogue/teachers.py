"""Define teachers for CIFAR-100 by the paper's recipe; for a GPU."""

from lgkd.experiments.spec import Arm, Experiment, Quoted

_PAPER = "arXiv 2207.10026, Table 1, as a third party carries it (bapedragon/iBKD); not read in the paper itself"
_AGAIN = "bapedragon/iBKD: the authors' code run again, 300 epochs in 44 minutes on an H200"


def _teacher(model: str, label: str, *quoted: Quoted) -> Arm:
    return Arm(key=model, label=label, model=model, recipe="teacher", role="teacher", quoted=quoted)


RESNET56 = Experiment(
    name="cifar100-resnet56",
    title="the paper's teacher, its recipe",
    question="Does the paper's recipe give the teacher that the paper had?",
    scale="full",
    dataset="cifar100",
    part="all 50,000",
    seeds=(0,),
    budget="300 epochs of 50,000 images at 32 px, not timed here yet; 44 minutes on an H200 with the authors' code",
    arms=(
        _teacher(
            "resnet56",
            "ResNet-56",
            Quoted(70.43, "teacher of the paper", _PAPER),
            Quoted(71.91, "re-run, best epoch on test", _AGAIN),
        ),
    ),
    notes=("The experiments below borrow this teacher where its folder is beside theirs.",),
)

ZOO = Experiment(
    name="cifar100-teachers",
    title="more teachers by the same recipe",
    question="How good are teachers of other depths and widths by the paper's recipe?",
    scale="full",
    dataset="cifar100",
    part="all 50,000",
    seeds=(0,),
    budget="5 trainings of 300 epochs at 32 px, not timed yet; choose some by --arms",
    arms=(
        _teacher("resnet20", "ResNet-20"),
        _teacher("resnet32", "ResNet-32"),
        _teacher("resnet44", "ResNet-44"),
        _teacher("resnet110", "ResNet-110"),
        _teacher("wrn_16_2", "WRN-16-2"),
    ),
)
