"""From the part of a resolved config to the object it describes: checked, then built. Imports no Lightning."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from torch import nn

from oodgen.config import plugins
from oodgen.errors import UserError
from oodgen.models.ensemble import Ensemble

__all__ = ["build", "build_model", "check_targets"]

# What a config may name: the rooms whose things are built from configs, and no function that acts on files.
ROOMS = tuple(f"oodgen.{room}." for room in ("models", "methods", "probes", "scores", "data"))
ALLOWED = (*ROOMS, "torch.nn.", "torch.optim.", "pytorch_lightning.callbacks.", "pytorch_lightning.loggers.")


def build(config: Any, where: str) -> Any:
    """Instantiate a part of a config.

    Arguments:
        config: The part.
        where: Its place in the config, for what is said of it.

    Raises:
        UserError: it names what may not be built, or an argument does not fit.
    """
    check_targets(config, where)
    try:
        return instantiate(_fresh(config), _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        place = str(error).rsplit("full_key: ", 1)[-1].strip() if "full_key: " in str(error) else ""
        line = str(cause).splitlines()[0]
        raise UserError(f"config {'.'.join(filter(None, (where, place)))}: {line}") from error


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The model of a run without its method, and so without Lightning: the one that `build(config["method"]).model` is.

    Arguments:
        config: The run's resolved config.

    Raises:
        UserError: as `build`, or the method trains no model.
    """
    method = config["method"]
    member = method.get("member")  # of an ensemble: M models, each as the member's method has it
    if "model" not in (member or method):
        raise UserError("config method: there is no model in it")
    if member is None:
        return build(method["model"], "method.model")
    return Ensemble([build(member["model"], "method.member.model") for _ in range(method["size"])])


def _fresh(config: Any) -> Any:
    """A config in which a part marked `_fresh_: true` is a function that builds it, and all inside it, at each call.

    What lies inside a `_partial_` is built once and shared by all calls: members of an ensemble would share a prior.
    """
    if isinstance(config, list):
        return [_fresh(value) for value in config]
    if not isinstance(config, dict):
        return config
    inside = {key: _fresh(value) for key, value in config.items() if key != "_fresh_"}
    return partial(instantiate, inside, _convert_="all") if config.get("_fresh_") else inside


def check_targets(config: Any, where: str = "") -> None:
    """Every `_target_` must be a thing of an allowed package, also by the module that really defines it."""
    if isinstance(config, list):
        for i, value in enumerate(config):
            check_targets(value, f"{where}[{i}]")
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key == "_target_":
            _check_target(str(value), where)
        else:
            check_targets(value, f"{where}.{key}" if where else str(key))


def _check_target(target: str, where: str) -> None:
    refusal = f"{where}._target_={target} is outside the allowed packages ({', '.join(p.rstrip('.') for p in ALLOWED)})"
    allowed = (*ALLOWED, *(f"{name}." for name in plugins.admitted()))
    if not target.startswith(allowed):
        raise UserError(f"{refusal}; {plugins.refusal(target)}")
    try:
        defined = get_object(target)
    except Exception as error:
        raise UserError(f"{where}._target_={target} does not exist: {str(error).splitlines()[0]}") from error
    if not f"{getattr(defined, '__module__', '')}.".startswith(allowed):
        raise UserError(refusal)
