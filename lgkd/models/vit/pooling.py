"""Pool tokens to one vector for each image.

Letters in shapes: B batch, N tokens, T class tokens, R register tokens, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ClassPool(nn.Module):
    """Concatenate the class tokens: (B,T+N,D) -> (B,T D).

    Source: several class tokens and their concatenation: the authors' code of Wu, arXiv 2501.06220.
    """

    def __init__(self, class_tokens: int) -> None:
        super().__init__()
        self.class_tokens = class_tokens

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,T D)."""
        return tokens_BND[:, : self.class_tokens].flatten(1)


class MeanPool(nn.Module):
    """Average all tokens after the registers: (B,R+N,D) -> (B,D)."""

    def __init__(self, registers: int = 0) -> None:
        super().__init__()
        self.registers = registers

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,D)."""
        return tokens_BND[:, self.registers :].mean(dim=1)


class SequencePool(nn.Module):
    """Average the tokens after the registers, by a softmax of one learned logit each: (B,R+N,D) -> (B,D).

    Source: Hassani et al., arXiv 2104.05704 (SeqPool).
    """

    def __init__(self, width: int, registers: int = 0) -> None:
        super().__init__()
        self.registers = registers
        self.logit = nn.Linear(width, 1)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,D)."""
        tokens_BND = tokens_BND[:, self.registers :]
        weights_BN1 = F.softmax(self.logit(tokens_BND), dim=1)
        return (weights_BN1.transpose(1, 2) @ tokens_BND).squeeze(1)
