"""What models, losses and terms of one's own say where they cannot be made or read, word for word."""

import pytest
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.errors import InputError, ModelError, TapError
from lgkd.losses import KD, RKD
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_model
from lgkd.models.teacher import Teacher


class LateMean(nn.Module):
    """A student whose classifier reads every position, and which averages the logits: it has no embedding."""

    lgkd_taps = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(images))).flatten(2).transpose(1, 2)).mean(1)


def test_a_classifier_that_reads_no_embedding_is_told_by_its_name_and_shape(teacher: Teacher) -> None:
    with pytest.raises(
        TapError,
        match=r"the classifier 'head' of LateMean has inputs of the shape \(2, 1024, 3\), expected an embedding "
        r"\(B,D\); your own model can name another layer as its attribute lgkd_classifier",
    ):
        Guide(LateMean(), teacher, image_size=32, terms=[Term(RKD(), weight=1.0)])


def test_options_of_losses_out_of_range_are_told_with_the_range() -> None:
    with pytest.raises(InputError, match="KD: temperature is -1, expected a number > 0"):
        KD(temperature=-1)
    with pytest.raises(InputError, match="RKD: angle_weight is nan, expected a number >= 0"):
        RKD(angle_weight=float("nan"))


def test_a_classifier_of_nothing_does_not_exist() -> None:
    with pytest.raises(ModelError, match=r"^num_classes is 0, expected at least 1$"):
        CifarResNet(8, 0)
    with pytest.raises(ModelError, match=r"^resnet8: num_classes is 0, expected at least 1$"):
        create_model("resnet8", num_classes=0)
