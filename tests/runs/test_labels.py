"""Keys of scores are identifiers, and what was recorded before they were keeps its names."""

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.runs import record
from oodgen.runs.labels import default_score, key, key_and_label, label, with_labels
from oodgen.runs.locations import config_dir

LABELS = {
    "l_0": "l>0",
    "l_0_iw": "l>0 iw",
    "llr_1_mode": "llr>1 mode",
    "llr_12_1000": "llr>12 1000",
    "llr_k": "llr>k",
    "llr_ada_mode": "llr_ada mode",
    "l_below_2": "l<2",
    "llr_1_below_2": "llr>1<2",
    "control_total_variation": "control:total_variation",
}
OWN = ["llr_ada", "llr_rule", "kl_1", "log_p_2", "complexity_png", "rate", "waic", "l", "my_score", "my_llr_1", "llr_x"]


def test_key_and_label_are_one_another():
    for own, shown in [*LABELS.items(), *zip(OWN, OWN, strict=True)]:
        assert (label(own), label(shown), key(shown), key(own)) == (shown, shown, own, own)
    assert key_and_label("l>0 iw") == key_and_label("l_0_iw") == "l_0_iw (l>0 iw)" and key_and_label("rate") == "rate"
    assert key("what i called it") == "what i called it", "a key of somebody's that is no identifier"


@pytest.mark.parametrize("group", ["scores", "controls", "means", "oracle", "probes"])
def test_every_key_can_be_said_on_the_command_line(group):
    files = [config_dir() / "run.yaml", *(config_dir() / "experiment").glob("*.yaml")]
    parts = [yaml.safe_load(path.read_text()).get(group) or {} for path in files]
    parts += [
        yaml.safe_load(path.read_text())
        for group in ("score", "evidence")
        for path in (config_dir() / group).glob("*.yaml")
    ]
    assert all(name.isidentifier() for part in parts for name in part)


def test_the_command_line_reaches_them_and_runs_of_the_first_build_are_found():
    with initialize_config_dir(str(config_dir()), version_base="1.3"):

        def config(*words):
            return OmegaConf.to_container(compose("run", [*words, "evidence@scores=none", "runs=R"]), resolve=True)

        cpu = config("+experiment=fashion_mnist_llr_cpu")
        changed = config(
            "+experiment=fashion_mnist_llr_cpu",
            *("~scores.llr_1_mode", "scores.llr_1.k=2", "~controls.control_mean", "oracle.llr_k=[llr_1,llr_2]"),
        )
    # what the first build called this training and its evaluation, whose config had labels for keys and no evidence
    assert record.fingerprint(cpu) == "fbf9d87b169b"
    assert (
        record.evaluation_folder(cpu)
        == record.evaluation_folder(with_labels(cpu))
        == "R/eval/fashion_mnist_llr_cpu/4f86d00f3234"
    )
    assert record.fingerprint(changed) == "fbf9d87b169b" and record.evaluation_folder(
        changed
    ) != record.evaluation_folder(cpu)
    before, after = with_labels(cpu), with_labels(changed)
    assert before["scores"].keys() - after["scores"].keys() == {"llr>1 mode"}
    assert before["controls"].keys() - after["controls"].keys() == {"control:mean"}
    assert (before["scores"]["llr>1"]["k"], after["scores"]["llr>1"]["k"]) == (1, 2)
    assert after["oracle"] == {"llr>k": ["llr>1", "llr>2"]}


@pytest.mark.parametrize(
    ("scores", "default"),
    [
        (["l>0", "llr_ada", "evidence"], "evidence"),
        (["l>0", "llr_rule", "llr_ada"], "llr_ada"),
        (["control:mean", "msp", "odin"], "msp"),
        (["control:mean"], ""),
        ([], ""),
    ],
)
def test_the_default_score_is_fixed_beforehand(scores, default):
    assert default_score(scores) == default
