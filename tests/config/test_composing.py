"""Hydra composes what a command asks for once, and answers as if it composed it twice."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

WRONG = ["smoke=true", "+experiment=quickstart", "method.decay=crooked"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (WRONG, "method.decay='crooked' is not"),
        (["hydra.mode=RUN", *WRONG], "method.decay='crooked' is not"),
        (["modle=x"], "'modle'; did you mean model?"),
        (["seed=0,1", *WRONG], "seed=0,1 is a sweep, which needs -m"),
    ],
)
def test_a_config_is_composed_once(command, monkeypatch, arguments, words):
    calls, compose = [], ConfigLoaderImpl._load_configuration_impl

    def counted(self, **options):
        calls.append(options)
        return compose(self, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    ended = command(*arguments)
    assert ended.code == 2 and words in ended.error
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hydra.mode=MULTIRUN", "model=hvae_tiny,vae_grey", WRONG[2]], "2 of 2 cells failed: model=hvae_tiny; model="),
        (["hydra.mode=MULTIRUN", "model=hvae_tiny,nope"], "could not find 'model/nope'"),
        (["-m", "model=hvae_tiny,nope"], "could not find 'model/nope'"),
        ([], "You must specify 'model'"),
    ],
)
def test_a_grid_chooses_in_each_cell_what_a_run_must_choose(command, tmp_path, arguments, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "open.yaml").write_text("# @package _global_\ndefaults:\n- override /model: ???\n")
    ended = command("--config-dir", str(tmp_path), "+experiment=open", "smoke=true", *arguments)
    assert ended.code == 2 and words in ended.error
