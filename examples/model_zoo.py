"""Five small networks written as people write them: classes with a forward of their own.

They take images (B, 1, H, W) of 8×8 (scikit-learn's digits) or 28×28 pixels (MNIST). Each stands
for a family: convolutions, residual sums, depthwise convolutions, recurrence, attention.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ZOO"]


class LeNet(nn.Module):
    """LeNet-5 (Y. LeCun et al., Proc. IEEE 86, 2278, 1998) with ReLU; half as wide for 8×8."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        large = side == 28
        self.conv1 = nn.Conv2d(1, 6, 5 if large else 3, padding=2 if large else 1)
        self.conv2 = nn.Conv2d(6, 16, 5 if large else 3, padding=0 if large else 1)
        self.fc1 = nn.Linear(400 if large else 64, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        return self.fc3(functional.relu(self.fc2(x)))


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut (K. He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A small ResNet: a stem, three residual blocks, a mean over positions, a linear layer."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 2 if side > 16 else 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2))
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes)."""
        x = self.blocks(torch.relu(self.bn(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution (A. Howard et al., arXiv:1704.04861)."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs), nn.ReLU6(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU6(),
    )  # fmt: skip


class MobileNet(nn.Module):
    """Depthwise separable convolutions."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2 if side > 16 else 1, 1, bias=False), nn.BatchNorm2d(16),
            nn.ReLU6(),
        )  # fmt: skip
        self.features = nn.Sequential(separable(16, 32, 2), separable(32, 64, 2))
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes)."""
        x = functional.adaptive_avg_pool2d(self.features(self.stem(x)), 1).flatten(1)
        return self.classifier(x)


class RowLSTM(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(side, 32, batch_first=True)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes)."""
        outputs, _ = self.lstm(x.squeeze(1))
        return self.fc(outputs[:, -1])


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width), shape kept."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer (A. Dosovitskiy et al., ICLR 2021) of two blocks, without a token."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        width, patch = 32, side // 4
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, 16, width))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


ZOO: dict[str, Callable[[int, int], nn.Module]] = {
    "lenet": LeNet,
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "lstm": RowLSTM,
    "vit": ViT,
}
"""By name: what makes a network of (side of images in pixels, classes)."""
