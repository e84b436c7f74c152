r"""The adversarial column of table 2, inside and outside of [0, 1].

    python experiments/generative_ensembles/adversarial.py runs/eval/mnist_vae_ensemble/HASH --data DATA

The authors' code adds $0.3\,\mathrm{sign}\,\nabla_y \log p(y)$, the gradient at a test image, to N(0, 1) and clips
nothing; oodgen's set starts from noise, takes the gradient there and stays an image. Prints for each way the AUROC of
what the ensemble's members say against as many test images, bounds of 8 samples.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from oodgen.config.instantiate import build
from oodgen.data.module import OODDataModule
from oodgen.detector import Detector, config_of
from oodgen.metrics import auroc
from oodgen.noise import ExampleNoise, member_seed
from oodgen.scores.ensemble import member, variance, waic
from oodgen.scores.likelihood import importance

SAMPLES, BATCH, EPS = 8, 32, 0.3


def asked(members: list, y: Tensor) -> dict[str, Tensor]:
    """log p, the rate and the scores of the paper, for observed images y (N, C, H, W), in [0, 1] or not."""
    log_p, rate = [], []
    with torch.inference_mode():
        for i, model in enumerate(members, 1):
            parts = torch.arange(len(y)).split(BATCH)
            bounds = [model(y[part], ExampleNoise(member_seed(0, i), part), SAMPLES) for part in parts]
            log_p.append(torch.cat([b.weights.double().logsumexp(0) for b in bounds]) - torch.tensor(SAMPLES).log())
            rate.append(torch.cat([b.kls.double().sum(0).mean(0) for b in bounds]))
    evidence = {"members/iw": torch.stack(log_p)}
    score = lambda e: importance(e, probe="members")  # noqa: E731
    return {
        "log p": member(evidence, score, 1),
        "log p of the last": member(evidence, score, len(members)),
        "rate": rate[0],
        "Var": variance(evidence, score),
        "WAIC": waic(evidence, score),
    }


def sign(model: torch.nn.Module, y: Tensor) -> Tensor:
    """The sign of the gradient of the first member's bound, over 4 draws."""
    total = torch.zeros_like(y)
    for part in torch.arange(len(y)).split(BATCH):
        for s in range(4):
            at = y[part].clone().requires_grad_()
            total[part] += torch.autograd.grad(model.plausibility(at, ExampleNoise(1, part, s)).sum(), at)[0]
    return total.sign()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="the data root")
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    detector, config = Detector.load(options.run, "log_p", "cpu"), config_of(options.run)
    members = list(detector.model.members)  # type: ignore[arg-type]
    data: OODDataModule = build({**config["data"], "root": options.data, "seed": 0}, "data")
    test = torch.from_numpy(data.test_sets()[data.inlier.name].x[: options.count]).float() / 255
    draw = torch.Generator().manual_seed(0)
    plain, grey = torch.randn(test.shape, generator=draw), torch.randn(test.shape, generator=draw) / 4
    image = (grey + 0.5).clamp(0, 1)
    far = plain + EPS * sign(members[0], test)
    ways = {
        "the authors': N(0, 1), gradient at a test image": far,
        "the same, clipped": far.clamp(0, 1),
        "N(0, 1), no step": plain,
        "N(0, 1/4), gradient at the noise": grey + EPS * sign(members[0], grey),
        "oodgen's: N(1/2, 1/4), gradient there, clipped": (image + EPS * sign(members[0], image)).clamp(0, 1),
    }
    for steps in range(1, 61):
        image = (image + 0.05 * sign(members[0], image)).clamp(0, 1)
        if steps in (20, 60):
            ways[f"N(1/2, 1/4), {steps} steps of 0.05, clipped"] = image
    inliers = asked(members, test)
    print("| noise | log p, nats |", " | ".join(inliers), "|\n|---|---|" + "---|" * len(inliers))
    print(f"| test images | {-inliers['log p'].mean():.0f} |" + " |" * len(inliers))
    for name, y in ways.items():
        found = asked(members, y)
        values = (f"{auroc(inliers[score].numpy(), found[score].numpy()):.3f}" for score in inliers)
        print(f"| {name} | {-found['log p'].mean():.0f} |", " | ".join(values), "|", flush=True)


if __name__ == "__main__":
    main()
