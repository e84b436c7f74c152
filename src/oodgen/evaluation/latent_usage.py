r"""KL, active units and mutual information of each layer of latent variables, as rows of results."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Normal

from oodgen.data.preprocess import TestSet
from oodgen.data.resident import Examples, SequentialLoader
from oodgen.evaluation.evaluate import EvaluatedModel
from oodgen.models.density import HierarchyWithPosteriors
from oodgen.models.information import active_units, mutual_information
from oodgen.noise import ExampleNoise
from oodgen.runs.results import Row

__all__ = ["latent_usage"]

COUNT, BATCH = 1000, 100


@torch.inference_mode()
def latent_usage(
    evaluated: EvaluatedModel, run_key: tuple[str, str, int], sets: Mapping[str, TestSet], count: int = COUNT
) -> list[Row]:
    r"""Measures of posterior collapse of each layer z_i, on the first n examples of each set.

    Metrics: `kl`, the mean KL in the ELBO, nats; `active`, the number of active units; `information`, $I_q(x; z_i)$ in
    nats, at most $\log n$. Posteriors are conditioned on the means of the layers inferred before; see
    `oodgen.models.information`. Empty for models without posteriors.

    Arguments:
        evaluated: The model.
        run_key: Experiment, fingerprint and seed.
        sets: Data sets, the inlier's first.
        count: n, at most.
    """
    model = evaluated.model
    if not isinstance(model, HierarchyWithPosteriors):
        return []
    inlier, found = next(iter(sets)), []
    for name, test in sets.items():
        x = test.x[:count]
        codes: list[list[Normal]] = []
        kls: list[Tensor] = []
        with evaluated.device.autocast():
            for batch in SequentialLoader(Examples(x, evaluated.device.torch, 0), BATCH):
                noise = ExampleNoise(evaluated.seed, batch.index)
                y = model.observe(batch.x, noise)
                kls.append(model.bounds(y, noise, (0,), (1,))[0].kls[:, 0])
                codes.append(model.posteriors(y))
        kl = torch.cat(kls, 1).double().mean(1)
        for i, parts in enumerate(zip(*codes, strict=True)):
            mean, scale = (torch.cat([getattr(q, part)[0] for q in parts]) for part in ("mean", "stddev"))
            q = Normal(mean, scale, validate_args=False)
            noise = ExampleNoise(evaluated.seed, torch.arange(len(mean)))
            measures = {"kl": kl[i], "active": active_units(q), "information": mutual_information(q, noise)}
            layer, n = f"z{i + 1}", len(x)
            for metric, value in measures.items():
                found.append(Row(*run_key, inlier, name, layer, metric, float(value), math.nan, math.nan, "full", n, n))
    return found
