r"""Classifiers, the label-based baselines of papers/generative_ensembles.

A classifier maps an example to features f(x) and these, by one linear layer, to the logits of $p(y | x)$: a softmax
over K classes, or a single logit, whose sigmoid is the probability of out-of-distribution.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from oodgen.errors import UserError
from oodgen.noise import Noise
from oodgen.options import Count, Share

__all__ = ["Bottleneck", "Classifier", "ConvolutionalClassifier", "DenseClassifier", "Trunk", "scaled"]


@runtime_checkable
class Classifier(Protocol):
    """A model with logits of K classes.

    Attributes:
        shape: Shape of an example.
        classes: K, the number of logits.
    """

    shape: tuple[int, ...]
    classes: int

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images (B, C, H, W) or float32 rows (B, D) to floats y, the networks' input."""
        ...

    def features(self, y: Tensor) -> Tensor:
        """f, the input of the last layer, shape (B, F)."""
        ...

    def logits(self, y: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the classes, shape (B, K)."""
        ...


@runtime_checkable
class Bottleneck(Classifier, Protocol):
    r"""A classifier of a stochastic code z of the example, with the KL of the code (its rate)."""

    def rate(self, y: Tensor) -> Tensor:
        r"""$D_{KL}[q(z|y) \| p(z)]$ in nats, shape (B,)."""
        ...

    def encode(self, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of one sample of z, and the rate (B,), from one pass."""
        ...


def scaled(x: Tensor) -> Tensor:
    """Stored images (B, C, H, W) as intensities in [0, 1]; rows (B, D) unchanged."""
    return x.float() / 255 if x.ndim == 4 else x


class Trunk(nn.Sequential):
    r"""Images (B, C, H, W) to features (B, F): for each width a 3 x 3 convolution, batch norm, ReLU and 2 x 2 max-pool;
    then a linear layer and ReLU.

    Arguments:
        shape: Shape of an image, (C, H, W).
        channels: Widths of the convolutions.
        hidden: F.

    Raises:
        UserError: the shape is not that of an image, or too small for the poolings.
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int], hidden: int) -> None:
        if len(shape) != 3:
            raise UserError(f"model.shape={list(shape)} is not an image shape [C,H,W]; choose another model for rows")
        height, width = (size >> len(channels) for size in shape[1:])
        if min(height, width) < 1:
            raise UserError(
                f"model.channels={list(channels)} are too many: each halves the image of {shape[1]} x {shape[2]} pixels"
            )
        layers: list[nn.Module] = []
        for below, above in pairwise([shape[0], *channels]):
            convolution = nn.Conv2d(below, above, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(above), nn.ReLU(), nn.MaxPool2d(2)]
        flat = height * width * (channels[-1] if channels else shape[0])
        super().__init__(*layers, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())


class _FeatureClassifier(nn.Module):
    """A trunk (features), dropout, and a linear layer to logits."""

    def __init__(self, shape: Sequence[int], classes: int, trunk: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.trunk, self.dropout, self.head = trunk, nn.Dropout(dropout), nn.Linear(width, classes)

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return scaled(x)

    def features(self, y: Tensor) -> Tensor:
        return self.trunk(y)

    def logits(self, y: Tensor) -> Tensor:
        return self.head(self.dropout(self.trunk(y)))


class ConvolutionalClassifier(_FeatureClassifier):
    """A small classifier of images.

    Arguments:
        shape: Shape of an image, (C, H, W).
        classes: K.
        channels, hidden: Of its `Trunk`.
        dropout: Dropout probability of the features.

    Raises:
        UserError: also what `Trunk` refuses.
    """

    def __init__(
        self, shape: Sequence[Count], classes: Count, channels: Sequence[Count], hidden: Count, dropout: Share = 0.0
    ) -> None:
        super().__init__(shape, classes, Trunk(shape, channels, hidden), hidden, dropout)


class DenseClassifier(_FeatureClassifier):
    """A classifier of rows, with dropout behind every hidden ReLU layer.

    Arguments:
        shape: Shape of a row, (D,).
        classes: K; 1 for inliers against negatives.
        hidden: Units of the hidden layers.
        dropout: Dropout probability of the hidden units.

    Raises:
        UserError: the shape is not that of a row, or there is no hidden layer.

    Source: Choi, Jang, Alemi 2019, section 4.2 (papers/generative_ensembles, section 2): two layers of 512, the dropout
    probability is not given.
    """

    def __init__(self, shape: Sequence[Count], classes: Count, hidden: Sequence[Count], dropout: Share = 0.5) -> None:
        if len(shape) != 1:
            raise UserError(f"model.shape={list(shape)} is not a row shape [columns]; choose another model for images")
        if not hidden:
            raise UserError("model.hidden is empty; name the width of at least one layer")
        layers: list[nn.Module] = []
        for below, above in pairwise([shape[0], *hidden]):
            layers += [nn.Dropout(dropout)] if layers else []
            layers += [nn.Linear(below, above), nn.ReLU()]
        super().__init__(shape, classes, nn.Sequential(*layers), hidden[-1], dropout)
