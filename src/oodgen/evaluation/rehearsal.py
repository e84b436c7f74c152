"""A small evaluation before the training, to find errors of scores early."""

from copy import deepcopy
from pathlib import Path

from oodgen.config.components import Components, with_few_samples
from oodgen.config.instantiate import build
from oodgen.data.preprocess import TestSet
from oodgen.evaluation import evaluate

__all__ = ["rehearse"]

SCORED, FITTED = 4, 256  # numbers of examples that are scored, and that probes are fitted on


def rehearse(components: Components) -> None:
    """Evaluate an untrained copy of the model on a few held-out inliers, with few samples.

    Probes do not declare the names of their evidence, so only this shows whether scores find theirs.

    Raises:
        UserError: the method cannot train with these data, or as `evaluate.compute_scores`.
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


def _first(test: TestSet, count: int) -> TestSet:
    return test._replace(x=test.x[:count], y=None if test.y is None else test.y[:count])
