"""Time of the parts of evaluation without a model: bootstrap intervals and image statistics."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from oodgen import metrics
from oodgen.bench.subject import Bench, random_images
from oodgen.bench.timing import Table, interleaved
from oodgen.probes.complexity import compressed_bits, statistics

__all__ = ["measure"]


def measure(bench: Bench, scores: int = 10_000, resamples: int = 1000, pictures: int = 1000) -> list[Table]:
    """One table.

    Arguments:
        bench: The benchmark's settings.
        scores: Number of scores of the inlier set and of the out set.
        resamples: Number of bootstrap resamples.
        pictures: Number of images to compress.
    """
    if bench.quick:
        scores, resamples, pictures = scores // 10, resamples // 10, pictures // 10
    inlier, out = (np.random.default_rng(i).normal(i, 1, scores) for i in (0, 1))
    # smooth images, since compressing noise takes longer than compressing real images
    grey = torch.nn.functional.interpolate(
        random_images(pictures, (1, 7, 7), torch.device("cpu")), (28, 28), mode="bilinear"
    )
    calls: dict[str, Callable[[], Any]] = {
        f"bootstrap, {scores:,} + {scores:,} scores, {resamples:,} resamples": partial(
            metrics.bootstrap, inlier, out, resamples
        ),
        f"PNG sizes of {pictures:,} images": partial(compressed_bits, grey, "png"),
        f"JPEG 2000 sizes of {pictures:,} images": partial(compressed_bits, grey, "jpeg2000"),
        f"mean, entropy and total variation of {pictures:,} images": partial(statistics, grey),
    }
    timings = interleaved(calls, torch.device("cpu"), bench.effort._replace(seconds=bench.effort.seconds / 2))
    rows = [
        (name, t.median, "" if name.startswith("bootstrap") else pictures / t.median) for name, t in timings.items()
    ]
    return [Table("Evaluation beside the model, on the CPU", ("what", "seconds", "images/s"), rows)]
