"""A stranger's run is data: no config that is given to `oodgen score` executes anything but what it may."""

import copy
import os
import pickle
import shutil
from contextlib import suppress

import numpy as np
import pytest
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image

from oodgen import score
from oodgen.config import schema
from oodgen.config.instantiate import build
from oodgen.errors import UserError


class _Marks:
    """Whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _plant(home):
    """Pickles that make the folder `marker` when they are read, as numpy's and as torch's."""
    np.save(home / "evil.npy", np.array([_Marks(home / "marker")], object), allow_pickle=True)
    (home / "evil.pt").write_bytes(pickle.dumps(_Marks(home / "marker"), 2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_factory):
    """A finished run on made images, with a picture beside it."""
    from oodgen import run

    home = tmp_path_factory.mktemp("finished")
    options = [*tiny_factory(home / "data"), "trainer.max_epochs=1", f"runs={home / 'runs'}", "score@means=none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["oodgen", *options])
        patch.setenv("HYDRA_FULL_ERROR", "")  # set here, so that what the command sets does not outlive it
        run.main()
    return home


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, with a picture and a pickle that makes the folder `marker` when it is read."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "picture.png")
    _plant(tmp_path)
    (found,) = (tmp_path / "runs").glob("eval/*/*")
    return found


def _part(target, **arguments):
    return {"_target_": target, **arguments}


def _later(target, **arguments):
    return _part(target, _partial_=True, **arguments)


def _item(of, attribute, key):
    """`of.attribute[key]`, by a class of torch's: getattr, then getitem."""
    wrapper = "torch.nn.cpp.OrderedDictWrapper"
    return _part(f"{wrapper}.__getitem__", self=_part(wrapper, cpp_module=of, attr=attribute), key=key)


def _named(module, name):
    """Anything of any module, out of the globals of a function of torch's."""
    function = _part("torch.optim.swa_utils.get_ema_avg_fn")
    system = _item(_item(function, "__globals__", "warnings"), "__dict__", "sys")
    return _item(_item(system, "modules", module), "__dict__", name)


def _called(function, **arguments):
    """A call of anything, by a module whose `forward` it is."""
    container = _part("torch.nn.ParameterDict", parameters={"forward": function})
    return _part("torch.nn.Module._call_impl", self=container, **arguments)


EVIL, PICKLE = "PATH/evil.npy", "PATH/evil.pt"
LLR = {"_target_": "oodgen.scores.ratio.llr_ada", "_partial_": True}
CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"

# What the first build did as it stands here, from `python -m oodgen.score`: code ran, and files were written.
LIVE = {
    "numpy.load of a pickle": ("scores.llr_ada", _called(_named("numpy", "load"), file=EVIL, allow_pickle=True)),
    "torch.load of a pickle": ("method", _called(_named("torch", "load"), f=PICKLE, weights_only=False)),
    "os.mkdir": ("probes.bounds", _called(_named("os", "mkdir"), path="PATH/marker")),
    "to_yaml of a checkpoint callback": (
        "probes.bounds",
        _part(f"{CHECKPOINT}.to_yaml", self=_part(CHECKPOINT), filepath="PATH/marker"),
    ),
}
# where it is put, and what
ATTEMPTS = LIVE | {
    "torch.load": ("probes.bounds", _part("torch.load", f=EVIL, weights_only=False)),
    "main of the data's command": (
        "probes.bounds",
        _part("oodgen.data.__main__.main", arguments=["prepare", "photos"]),
    ),
    # attributes, private names, dunders
    "numpy.load": ("scores.llr_ada", _later("numpy.load", file=EVIL, allow_pickle=True)),
    "an attribute of a class of ours": ("probes.bounds", _part("oodgen.probes.bounds.Bounds.batch", self=1, model=1)),
    "getattr of a class": ("scores.llr_ada", _part("oodgen.scores.ratio.DeviatingLevel.__getattribute__")),
    "a module's getattr": ("probes.bounds", _part("torch.nn.Module.__getattr__", self=1, name="x")),
    "a builtin of a module": ("scores.llr_ada", _part("oodgen.scores.ratio.__builtins__.eval", _args_=["1"])),
    "the loader of a module": ("scores.llr_ada", _part("oodgen.scores.ratio.__loader__.exec_module")),
    "a private function": ("data.out.kmnist", _part("oodgen.data.embedded._read_glyphs")),
    "a private class": ("probes.bounds", _part("oodgen.probes.members._MemberNoise")),
    "an unpickler of ours": ("data.inlier", _part("oodgen.data.imagenet32._Arrays")),
    # names that are imported into a module, or stand elsewhere
    "torch through a module of ours": ("scores.llr_ada", _later("oodgen.scores.ratio.torch.load", f=EVIL)),
    "a path through a module of ours": ("probes.bounds", _part("oodgen.data.module.Path.unlink", self="PATH")),
    "a class imported by another module": ("probes.bounds", _part("oodgen.probes.members.Probe")),
    "a function of our files": ("probes.bounds", _part("oodgen.runs.files.write_text", path="PATH/marker", text="x")),
    "a function of ours that reads files": ("data.inlier", _part("oodgen.data.imagenet32.decode", path=EVIL)),
    "prepare, which writes": ("data.inlier", _part("oodgen.data.catalog.prepare", dataset=1, split="x", root="PATH")),
    "a data set made by hand": ("data.inlier", _part("oodgen.data.catalog.Dataset", read=_later("numpy.load"))),
    "a score where a probe stands": ("probes.bounds", LLR),
    "a probe where a score stands": ("scores.llr_ada", _part("oodgen.probes.bounds.Bounds")),
    "a method where a model stands": ("method.model", _part("oodgen.methods.method.Method")),
    "a layer of torch's": ("method.model", _part("torch.nn.Linear", in_features=1, out_features=1)),
    # keys of Hydra's
    "call": ("probes.bounds", _part("oodgen.probes.bounds.Bounds", _call_="os.mkdir")),
    "args": ("probes.bounds", _part("oodgen.probes.bounds.Bounds", _args_=[1])),
    "recursive": ("probes.bounds", _part("oodgen.probes.bounds.Bounds", _recursive_=False)),
    "convert": ("probes.bounds", _part("oodgen.probes.bounds.Bounds", _convert_="object")),
    "partial that is no boolean": ("scores.llr_ada", {**LLR, "_partial_": "numpy.load"}),
    "fresh that is a part": ("scores.llr_ada", {**LLR, "_fresh_": _part("os.getcwd")}),
    # parts in parts
    "an argument that is built": ("scores.llr_ada", {**LLR, "probe": _part("os.mkdir", path="PATH/marker")}),
    "a list of parts": ("method.model.shape", [_part("os.getpid"), 28, 28]),
    "a layer that is built": ("method.model.layers", [_part("os.getpid")]),
    "an optimiser": ("method.optimizer", _later("torch.optim.swa_utils.AveragedModel")),
    "a target that is a list": ("probes.bounds", {"_target_": ["os", "mkdir"]}),
    "a target that is a part": ("probes.bounds", {"_target_": _part("os.getcwd")}),
    "an interpolation": ("probes.bounds", _part("${oc.env:HOME}")),
    "a target put together": ("notes", ["${oc.create:{_target_: os.getcwd}}"]),
    "a part in a note": ("notes", [_part("os.mkdir", path="PATH/marker")]),
    # names that look like ours
    "a letter of another script": ("probes.bounds", _part("oodgen.probes.bоunds.Bounds")),
    "full width": ("probes.bounds", _part("oodgen.probes.bounds.Ｂounds")),
    "a dot behind": ("probes.bounds", _part("oodgen.probes.bounds.Bounds.")),
    "two dots": ("probes.bounds", _part("oodgen.probes..bounds.Bounds")),
    "a line break": ("probes.bounds", _part("oodgen.probes.bounds.Bounds\n")),
    "a path": ("probes.bounds", _part("oodgen.probes.../../evil.Bounds")),
    "a package beside ours": ("probes.bounds", _part("oodgenx.probes.Bounds")),
    # what a plug-in or a logger would do
    "a plug-in that the run names": ("plugins", ["evil_plugin"], "probes.bounds", _part("evil_plugin.Probe")),
    "a callback with a path": (
        "callbacks.x",
        _part("pytorch_lightning.callbacks.ModelCheckpoint", dirpath="PATH/marker"),
    ),
    "a callback that calls": ("callbacks.x", _part("pytorch_lightning.callbacks.LambdaCallback", setup=LLR)),
    "a logger that takes an object": (
        "logger.x",
        _part("pytorch_lightning.loggers.WandbLogger", experiment=_part("os.getcwd")),
    ),
    "a trainer's plug-in": ("trainer.plugins", _part("os.mkdir", path="PATH/marker")),
    "a file as activation": ("method.model.activation", "cpp.OrderedDictWrapper"),
}


def _put(config, place, value):
    *before, last = place.split(".")
    for key in before:
        config = config.setdefault(key, {})
    config[last] = value


def _with(value, home):
    return yaml.safe_load(yaml.safe_dump(value, allow_unicode=True).replace("PATH", str(home)))


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_strangers_run_executes_nothing(folder, tmp_path, capsys, attempt, monkeypatch):
    (tmp_path / "evil_plugin").mkdir()
    (tmp_path / "evil_plugin/__init__.py").write_text(f"import os; os.mkdir({str(tmp_path / 'marker')!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    pairs = ATTEMPTS[attempt]
    for place, value in zip(pairs[::2], pairs[1::2], strict=True):
        _put(config, place, _with(value, tmp_path))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    before = sorted(tmp_path.rglob("*"))
    assert score.main([str(folder), str(tmp_path / "picture.png"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("oodgen: ") and error.count("\n") == 1 and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before, "something was made"


@pytest.mark.parametrize("attempt", LIVE)
def test_the_chains_are_live_where_hydra_may_build_them(tmp_path, attempt):
    _plant(tmp_path)
    with suppress(InstantiationException):  # the bytes after the pickle
        instantiate(_with(LIVE[attempt][1], tmp_path), _convert_="all")
    assert (tmp_path / "marker").exists()


def test_the_run_itself_is_scored(folder, tmp_path, capsys):
    assert score.main([str(folder), str(tmp_path / "picture.png"), "--device", "cpu"]) in (0, 2)
    assert "1 image scored" in capsys.readouterr().out


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nor_does_a_part_that_is_built_unasked(attempt, tmp_path):
    *_, place, value = ATTEMPTS[attempt]
    if place.count(".") == 1 and place.partition(".")[0] in ("probes", "scores", "callbacks", "logger"):
        with pytest.raises(UserError):
            build(_with(value, tmp_path), place)
    assert not list(tmp_path.iterdir())


PLUGIN = '''
from oodgen.models.likelihoods import Likelihood
from torch import nn

class Mine(Likelihood):
    pass

class Other(nn.Module):
    pass

class Liar(object().__class__):
    """Of which nothing can be told from its source."""

def asked(model, x, noise):
    return {}

def made():
    return Liar()
'''


def test_a_plug_ins_part_stands_where_its_type_fits(tmp_path, monkeypatch):
    package = tmp_path / "their_parts"
    (package / "conf").mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    model = {
        "_target_": "oodgen.models.hierarchy.BottomUpVAE",
        "shape": [1, 8, 8],
        "layers": [{"latent": 2}],
        "likelihood": {"_target_": "their_parts.Mine"},
    }
    with pytest.raises(UserError, match="not enabled; if you trust it"):
        schema.check_part(model, "model")
    monkeypatch.setenv("OODGEN_PLUGINS", "their_parts")
    schema.check_part(model, "model")
    for name, words in (("Other", "which Other is not"), ("asked", "of asked"), ("nothing", "does not exist")):
        wrong = copy.deepcopy(model)
        wrong["likelihood"]["_target_"] = f"their_parts.{name}"
        with pytest.raises(UserError, match=words):
            schema.check_part(wrong, "model")
    # what the source does not tell is looked at when it is built
    wrong = {**model, "likelihood": {"_target_": "their_parts.made"}}
    schema.check_part(wrong, "model")
    with pytest.raises(UserError, match=r"config model\.likelihood: their_parts\.made made a Liar"):
        build(wrong, "model")
