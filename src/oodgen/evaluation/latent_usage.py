r"""How much each layer of a hierarchy is used, of each set: as rows beside the scores."""

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

__all__ = ["usage"]

COUNT, BATCH = 1000, 100


@torch.inference_mode()
def usage(
    evaluated: EvaluatedModel, who: tuple[str, str, int], sets: Mapping[str, TestSet], count: int = COUNT
) -> list[Row]:
    r"""Of each layer z_i, on the first examples of each set: has it collapsed?

    `kl`, its mean in the ELBO; `active`, the number of its active units; `information`, $I_q(x; z_i)$ in nats, of which
    n examples can show no more than $\log n$. Posteriors are those that the means of the layers inferred before
    give; see `oodgen.models.information`. Nothing of a model that does not show its posteriors.

    Arguments:
        evaluated: The model.
        who: Experiment, fingerprint and seed.
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
            said = {"kl": kl[i], "active": active_units(q), "information": mutual_information(q, noise)}
            layer, n = f"z{i + 1}", len(x)
            for metric, value in said.items():
                found.append(Row(*who, inlier, name, layer, metric, float(value), math.nan, math.nan, "full", n, n))
    return found
