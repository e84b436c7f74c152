"""The command line: the listing, and one line with exit code 2 for whatever a user can mend."""

import subprocess
import sys
from urllib.error import URLError

import numpy as np
import pytest

from oodgen.data.__main__ import catalogue, main
from oodgen.data.adversarial import Attack
from oodgen.data.catalog import Dataset, Transform

NAMES = [
    "photos",
    "digits",
    "glyphs",
    "mnist",
    "fashion_mnist",
    "kmnist",
    "emnist_letters",
    "omniglot",
    "omniglot_inverted",
    "notmnist",
    "smallnorb",
    "smallnorb_inverted",
    "cifar10",
    "cifar100",
    "svhn",
    "textures",
    "lsun_crop",
    "lsun_resize",
    "isun",
    "gtsrb",
    "celeba",
    "places365",
    "flowers102",
    "lfw",
    "imagenet32",
    "credit_fraud",
    "credit_fraud_frauds",
    "credit_fraud_known",
    "folder",
    "hflip",
    "vflip",
    "uniform_noise",
    "gaussian_noise",
    "adversarial",
]


def test_every_name_of_the_design():
    entries = catalogue()
    assert set(NAMES) <= set(entries)
    for name, entry in entries.items():
        assert entry is None or (isinstance(entry, Dataset | Transform | Attack) and entry.name == name)
        if isinstance(entry, Dataset):
            assert len(entry.shape) in (1, 3) and entry.sizes and entry.licence and entry.source.startswith("http")


def test_the_listing_says_what_is_there_and_where_the_rest_comes_from(tmp_path, capsys):
    assert main(["--root", str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("isun ")]
    assert line.split(maxsplit=2)[1:] == [
        "3x32x32",
        f"{'test 8,925 (absent)':66} not stated; https://github.com/facebookresearch/odin",
    ]


def test_hydra_builds_the_same():
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from oodgen.runs.locations import config_dir

    for name, entry in catalogue().items():
        if entry is not None:
            built = instantiate(OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml"))
            assert (built.name, type(built)) == (entry.name, type(entry))


def test_listing(tmp_path, capsys):
    def put(name: str, count: int) -> None:
        path = tmp_path / "prepared" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((count, 1, 28, 28), np.uint8))

    put("kmnist/test", 10_000)
    put("kmnist/train", 7)
    put("svhn/test_sample", 5)
    put("omniglot/test", 13_180)
    (tmp_path / "train_32x32.mat").touch()
    assert main(["--root", str(tmp_path)]) == 0
    text, where = capsys.readouterr().out.split("\n\n")
    assert str(tmp_path) in where
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert set(NAMES) <= set(rows)
    assert "train 60,000 (prepared: 7), test 10,000 (prepared) " in rows["kmnist"] and "CC BY-SA 4.0" in rows["kmnist"]
    assert "train 73,257 (raw), test 26,032 (sample: 5)" in rows["svhn"] and "3x32x32" in rows["svhn"]
    assert "train 19,280 (absent), test 13,180 (raw)" in rows["omniglot_inverted"]
    assert "test 1,000 (embedded)" in rows["photos"]
    assert "(absent)" in rows["lfw"] and "root=" in rows["folder"]
    assert rows["credit_fraud"].split()[1:5] == ["30", "train", "283,823", "(absent),"]


def test_default_root(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OODGEN_DATA", str(tmp_path))
    assert main(["prepare", "digits"]) == 0
    assert (tmp_path / "prepared/digits/test.npy").exists()
    assert str(tmp_path) in capsys.readouterr().out


def fails(capsys, *arguments: str) -> str:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


def test_faults(tmp_path, capsys, monkeypatch):
    root = ("--root", str(tmp_path))
    assert "available: celeba, cifar10" in fails(capsys, "fetch", "minst", *root)
    assert "made from another set" in fails(capsys, "prepare", "hflip", *root)
    assert "needs a name" in fails(capsys, "prepare", *root)
    assert "nothing is prepared" in fails(capsys, "verify", *root)
    assert "no longer downloadable" in fails(capsys, "fetch", "lfw", *root)
    assert "Kaggle" in fails(capsys, "fetch", "credit_fraud", *root)
    assert "fetch mnist" in fails(capsys, "prepare", "mnist", *root)

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", unreachable)
    message = fails(capsys, "fetch", "svhn", *root)
    assert "no route to host" in message and "ufldl.stanford.edu" in message


def test_fetch_of_an_embedded_set_prepares_it(tmp_path, capsys):
    assert main(["fetch", "digits", "--root", str(tmp_path)]) == 0
    train, test = capsys.readouterr().out.splitlines()
    assert train == f"{tmp_path}/prepared/digits/train.npy: 797, official train split"
    assert test == f"{tmp_path}/prepared/digits/test.npy: 1,000, official test split"


def test_verify(tmp_path, capsys):
    root = ("--root", str(tmp_path))
    main(["prepare", "digits", *root])
    assert main(["verify", *root]) == 0
    assert "digits test: 1,000, official test split" in capsys.readouterr().out
    path = tmp_path / "prepared/digits/test.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "test.npy is not the file that was recorded" in fails(capsys, "verify", "digits", *root)


@pytest.mark.parametrize("module", ["torch", "torchvision", "scipy", "sklearn", "matplotlib"])
def test_listing_imports_nothing_heavy(module):
    code = (
        "import sys; from oodgen.data.__main__ import main; main(['--root', 'nowhere']); "
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
