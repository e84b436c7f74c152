"""The evaluation in small before the training: a score that cannot be told is refused while that costs nothing."""

from copy import deepcopy
from pathlib import Path

from oodgen.config.components import Components, brief
from oodgen.config.instantiate import build
from oodgen.data.preprocess import TestSet
from oodgen.evaluation import evaluate

__all__ = ["rehearse"]

ASKED, FITTED = 4, 256  # examples: those that are scored, and those from which a probe takes its reference


def rehearse(components: Components) -> None:
    """Ask an untrained copy of the model about a few held-out inliers, in few draws, and score the answers.

    Probes do not declare what they say, so whether a score finds its evidence and its level is known in no other way.

    Raises:
        UserError: the method cannot train with these data, or as `evaluate.score`.
    """
    config, data = components.config, components.data
    method = deepcopy(components.method)
    components.device.set_memory_format(method)
    method.initialise(data.train_dataloader().batch(0))
    model = method.model.to(components.device.torch).eval()
    probes = {name: build(probe, f"probes.{name}") for name, probe in brief(config["probes"]).items()}
    nowhere = Path()  # what is asked here is not kept
    evaluated = evaluate.EvaluatedModel(model, "untrained", nowhere, nowhere, components.device, config["eval_seed"])
    probes = evaluate.fit_probes(evaluated, probes, lambda: _first(data.training_examples(), FITTED))
    few = _first(data.held_out["validation"], ASKED)
    said = {name: evaluate.ask(evaluated, probe, few) for name, probe in probes.items()}
    evidence = {f"{name}/{item}": value for name, answers in said.items() for item, value in answers.items()}
    evaluate.score(evaluate.fit_scores(components.scores, evidence), evidence)
    evaluate.score(components.means, evidence)


def _first(test: TestSet, count: int) -> TestSet:
    return test._replace(x=test.x[:count], y=None if test.y is None else test.y[:count])
