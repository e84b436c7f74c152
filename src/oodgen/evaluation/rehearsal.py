"""A small evaluation before the training, to find errors of scores and of the objective early."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np

from oodgen.config.components import Components, with_few_samples
from oodgen.config.instantiate import build
from oodgen.data.preprocess import TestSet
from oodgen.evaluation import evaluate
from oodgen.evaluation.accuracy import accuracy_rows
from oodgen.evaluation.latent_usage import latent_usage
from oodgen.runs import objective

__all__ = ["rehearse"]

SCORED, FITTED = 4, 256  # numbers of examples that are scored, and that probes are fitted on


def rehearse(components: Components, sets: Sequence[str]) -> None:
    """Evaluate an untrained copy of the model on a few held-out inliers, with few samples.

    Probes do not declare the names of their evidence, so only this shows whether scores find theirs.

    Arguments:
        components: The parts of the run.
        sets: The names of the sets to be scored, the inlier's first.

    Raises:
        UserError: the method cannot train with these data; as `evaluate.compute_scores`; or the objective will not be
            among the results.
    """
    config, data = components.config, components.data
    method = deepcopy(components.method)
    components.device.set_memory_format(method)
    method.initialise(data.train_dataloader().batch(0))
    model = method.model.to(components.device.torch).eval()
    probes = {name: build(probe, f"probes.{name}") for name, probe in with_few_samples(config["probes"]).items()}
    nowhere = Path()  # `run_probe` stores nothing
    evaluated = evaluate.EvaluatedModel(model, "untrained", nowhere, nowhere, components.device, config["eval_seed"])
    probes = evaluate.fit_probes(evaluated, probes, lambda: _first(data.training_examples(), FITTED))
    few = _first(data.held_out["validation"], SCORED)
    outputs = {name: evaluate.run_probe(evaluated, probe, few) for name, probe in probes.items()}
    evidence = {f"{name}/{item}": value for name, output in outputs.items() for item, value in output.items()}
    evaluate.compute_scores(evaluate.fit_scores(components.scores, evidence), evidence)
    evaluate.compute_scores(components.means, evidence)
    if objective.is_set(config["objective"]):
        scores, means = (dict.fromkeys(names, np.arange(2.0)) for names in (components.scores, components.means))
        key = (config["name"], "", config["seed"])
        rows = evaluate.result_rows(key, dict.fromkeys(sets, scores), 1, config["oracle"], dict.fromkeys(sets, means))
        usage = latent_usage(evaluated, key, {data.inlier.name: few})
        rows += [row._replace(out=name) for row in usage for name in sets]
        objective.choose(rows + accuracy_rows(key, evidence, few), config["objective"])


def _first(test: TestSet, count: int) -> TestSet:
    return test._replace(x=test.x[:count], y=None if test.y is None else test.y[:count])
