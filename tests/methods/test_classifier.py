"""Objectives with labels against their formulas; what lacks labels is refused; resuming changes nothing."""

import csv
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from oodgen.data.resident import Batch
from oodgen.detector import Detector
from oodgen.errors import UserError
from oodgen.methods.classifier import BinaryCrossEntropy, CrossEntropy, InformationBottleneck
from oodgen.methods.ensemble import GenerativeEnsemble
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.models.classifier import ConvolutionalClassifier, DenseClassifier
from oodgen.models.vib import VIB
from oodgen.noise import ExampleNoise

sgd = partial(torch.optim.SGD, lr=0.0)
LABELS = torch.tensor([2, 0, 1, 2, 2, 0])


def rows(seed, count=6):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def dense(classes=3, dropout=0.0):
    torch.manual_seed(0)
    return DenseClassifier((3,), classes, [8], dropout)


def images():
    return torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_and_accuracy_are_those_of_the_probabilities():
    method, x = CrossEntropy(dense(), sgd), rows(1)
    loss, terms = method.loss(Batch(x, torch.arange(6), 0, LABELS), ExampleNoise(0, torch.arange(6)))
    p = method.model.logits(x).exp() / method.model.logits(x).exp().sum(1, keepdim=True)
    torch.testing.assert_close(loss, -p[torch.arange(6), LABELS].log().mean())
    assert terms["accuracy"].item() == pytest.approx((p.argmax(1) == LABELS).float().mean().item())
    assert terms["log_py"] == -loss and method.monitor == "log_py"


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_bottleneck_pays_for_its_code(beta):
    torch.manual_seed(0)
    model, noise = VIB((1, 8, 8), 3, 5, [4], 6), ExampleNoise(0, torch.arange(6))
    method = InformationBottleneck(model, sgd, beta=beta).eval()
    loss, terms = method.loss(Batch(images(), torch.arange(6), 0, LABELS), noise)
    logits, rate = model.encode(images() / 255, noise)
    expected = -logits.log_softmax(1)[torch.arange(6), LABELS].mean()
    torch.testing.assert_close(terms["cross_entropy"], expected)
    torch.testing.assert_close(loss, expected + beta * rate.mean())
    assert terms["bound"] == -loss and method.monitor == "bound"


def natural(logits, y, weight):
    """The weighted sigmoid cross entropy of each example, as its definition has it."""
    p = torch.sigmoid(logits)
    return -(weight * y * p.log() + (1 - y) * (1 - p).log())


def test_weighted_cross_entropy_is_that_of_the_data_as_they_are():
    # the whole of a set with 2 negatives for 6 inliers, once as it is and once as a batch of either
    method = BinaryCrossEntropy(dense(1), sgd, positive_weight=7.0)
    x, negatives = rows(1), rows(2, 2)
    served = negatives.repeat(3, 1)
    data = SimpleNamespace(negatives=SimpleNamespace(x=negatives), train_rows=x)
    method._trainer = SimpleNamespace(datamodule=data)
    method.on_fit_start()
    batch = Batch(x, torch.arange(6), 0, negative=served)
    loss, terms = method.loss(batch, ExampleNoise(0, torch.arange(6)))
    logits = method.model.logits(torch.cat([x, negatives]))[:, 0]
    y = torch.tensor([0.0] * 6 + [1.0] * 2)
    torch.testing.assert_close(loss, natural(logits, y, 7.0).sum() / 6)
    right = ((logits[:6] < 0).float().mean() + (logits[6:] >= 0).float().mean()) / 2
    torch.testing.assert_close(terms["accuracy"], right)
    balanced = BinaryCrossEntropy(method.model, sgd)
    balanced._trainer = method._trainer
    balanced.on_fit_start()
    value, _ = balanced.loss(batch, ExampleNoise(0, torch.arange(6)))
    torch.testing.assert_close(value, natural(logits, y, 3.0).sum() / 6)  # w = 6 / 2


def test_a_set_without_labels_or_negatives_is_refused():
    with pytest.raises(UserError, match=r"^CrossEntropy needs labels, which the inlier set does not have; choose"):
        CrossEntropy(dense(), sgd).initialise(Batch(rows(1), torch.arange(6), 0))
    with pytest.raises(UserError, match=r"data\.negative is set, .* does not use negative examples"):
        CrossEntropy(dense(), sgd).initialise(Batch(rows(1), torch.arange(6), 0, LABELS, negative=rows(2)))
    with pytest.raises(UserError, match="needs a negative set; add one"):
        BinaryCrossEntropy(dense(1), sgd).initialise(Batch(rows(1), torch.arange(6), 0))
    BinaryCrossEntropy(dense(1), sgd).initialise(Batch(rows(1), torch.arange(6), 0, negative=rows(2)))


@pytest.mark.parametrize(("labels", "refused"), [([0, 2], False), ([0, 3], True), ([-1, 2], True)])
def test_labels_beyond_the_models_classes_are_refused_before_training(labels, refused):
    method = CrossEntropy(dense(), sgd)
    method._trainer = SimpleNamespace(datamodule=SimpleNamespace(labels=torch.tensor(labels)))
    if refused:
        with pytest.raises(UserError, match=f"are {labels[0]} to {labels[1]}, but the model has 3 classes"):
            method.on_fit_start()
    else:
        method.on_fit_start()


def test_members_of_an_ensemble_learn_what_they_need_of_the_data():
    def together(make, data):
        ensemble = GenerativeEnsemble(make, 2)
        ensemble._trainer = SimpleNamespace(datamodule=data)
        ensemble.setup("fit")
        ensemble.on_fit_start()
        return ensemble.methods

    few = SimpleNamespace(negatives=SimpleNamespace(x=rows(2, 2)), train_rows=rows(1))
    members = together(lambda seed: BinaryCrossEntropy(dense(1), sgd, seed, positive_weight=7.0), few)
    assert [member.weight for member in members] == pytest.approx([7 * 2 / 6] * 2)
    with pytest.raises(UserError, match="are 0 to 3, but the model has 3 classes"):
        together(lambda seed: CrossEntropy(dense(), sgd, seed), SimpleNamespace(labels=torch.tensor([0, 3])))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaximumLikelihood(dense(), sgd), "type Density, which DenseClassifier is not.*model=vae_grey"),
        (lambda: InformationBottleneck(dense(), sgd), "type Bottleneck, which DenseClassifier is not"),
        (lambda: CrossEntropy(torch.nn.Linear(3, 3), sgd), "type Classifier, which Linear is not"),
        (lambda: BinaryCrossEntropy(dense(3), sgd), "one logit, but this one has 3; set model.classes=1"),
    ],
)
def test_what_does_not_fit_is_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_validation_has_no_dropout_and_the_same_noise_each_time(monkeypatch):
    torch.manual_seed(0)
    method = CrossEntropy(ConvolutionalClassifier((1, 8, 8), 3, [4], 6, dropout=0.5), sgd).eval()
    logged = []
    monkeypatch.setattr(method, "log_dict", lambda numbers, batch_size: logged.append((numbers, batch_size)))
    for _ in range(2):
        method.validation_step(Batch(images(), torch.arange(6), y=LABELS), 0)
    assert logged[0] == logged[1] and logged[0][1] == 6
    assert logged[0][0].keys() == {"val/cross_entropy", "val/accuracy", "val/log_py"}


def separable(root, labels=True):
    """Digits that are bright in one of two halves, and noise to be told from them."""
    draw = np.random.default_rng(0)
    for name, split, count in (("mnist", "train", 400), ("mnist", "test", 40), ("kmnist", "test", 40)):
        x = draw.integers(0, 60, (count, 1, 28, 28), np.uint8)
        y = np.arange(count) % 10
        if name == "mnist":
            for i in range(count):
                x[i, :, :, 2 * y[i] : 2 * y[i] + 4] = 250
        folder = root / "prepared" / name
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{split}.npy", x)
        if labels:
            np.save(folder / f"{split}_labels.npy", y)


OPTIONS = [
    *("data=base", "+dataset@data.inlier=mnist", "+dataset@data.out.kmnist=kmnist", "data.batch_size=16"),
    *(
        "~probes.bounds",
        "~probes.image",
        "score@controls=none",
        "evidence@scores=none",
        "oracle={}",
        "trainer.max_epochs=3",
    ),
    *("model.hidden=16", "model.channels=[8,8]", "device.accelerator=cpu", "device.precision=32"),
]


def run_options(root):
    probes = ("classifier=logits", "odin=odin", "mahalanobis=mahalanobis")
    parts = ("model=classifier_grey", "method=cross_entropy", "score@scores=classifier")
    return [*OPTIONS, *parts, *(f"+probe@probes.{probe}" for probe in probes), f"data.root={root}"]


def test_a_killed_and_resumed_run_ends_like_a_straight_one_and_separates(command, tmp_path, monkeypatch):
    separable(tmp_path / "data")
    weights, scores = [], []
    for half in (False, True):
        runs = tmp_path / f"runs{half}"
        arguments = [*run_options(tmp_path / "data"), f"runs={runs}"]
        if half:
            step, calls = CrossEntropy.training_step, []

            def dies(self, batch, batch_idx, step=step, calls=calls):
                calls.append(batch.step)
                if len(calls) == 30:  # in the second epoch
                    raise RuntimeError("killed")
                return step(self, batch, batch_idx)

            with monkeypatch.context() as patch:
                patch.setattr(CrossEntropy, "training_step", dies)
                assert command(*arguments).code != 0
        ended = command(*arguments)
        assert ended.code == 0, ended.err
        (path,) = runs.glob("train/*/checkpoints/last.ckpt")
        weights.append(torch.load(path, weights_only=True)["state_dict"])
        curve = list(csv.DictReader((path.parents[1] / "metrics.csv").open()))
        best = torch.load(path.with_name("best.ckpt"), weights_only=True)["global_step"]
        validated = {int(row["step"]) + 1: float(row["val/log_py"]) for row in curve if row["val/log_py"]}
        assert len(validated) == 3 and best == max(validated, key=validated.get)
        (path,) = runs.glob("eval/*/*/results.csv")
        scores.append([line.split(",", 2)[2] for line in path.read_text().splitlines()])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert scores[0] == scores[1]
    areas = {line.split(",")[3]: float(line.split(",")[5]) for line in scores[0] if ",auroc," in line}
    assert areas.keys() == {"msp", "entropy", "odin", "mahalanobis"}
    assert min(areas.values()) > 0.8, areas
    (said,) = [line.split(",") for line in scores[0] if ",accuracy," in line]
    assert said[1:5] == ["mnist", "mnist", "class", "accuracy"] and float(said[5]) > 0.8
    # a detector has what was fitted on the training examples, without them
    (folder,) = (path.parent for path in runs.glob("eval/*/*/results.csv"))
    written = np.genfromtxt(folder / "scores" / "kmnist.csv", delimiter=",", names=True)
    x = np.load(tmp_path / "data" / "prepared" / "kmnist" / "test.npy")
    for name in ("mahalanobis", "odin"):
        found = Detector.load(folder, name, "cpu").score(x)
        np.testing.assert_allclose(found, written[name], rtol=1e-4, err_msg=name)


def test_unlabelled_images_end_a_run_in_one_line(command, tmp_path):
    separable(tmp_path / "data", labels=False)
    ended = command(*run_options(tmp_path / "data"))
    assert ended.code == 2 and "needs labels, which the inlier set does not have" in ended.error
