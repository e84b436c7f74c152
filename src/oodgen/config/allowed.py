"""Permitted options and targets of configs, apart from the arguments of our own constructors: a closed list.

`RUN` has the types of the options of conf/run.yaml, `TRAINER` those of Lightning's Trainer; a class is given by its
dotted name and means a part that is built, by a `_target_` of that type. `OTHERS` has, by type, the permitted classes
of other packages with the types of their options.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from oodgen.options import Count, FolderName, NonNegative, Probability, Seed, Whole

__all__ = ["DECIDED", "OTHERS", "RUN", "TRAINER", "Parts"]


class Parts(NamedTuple):
    """A group of parts of type `kind` under names of the user's choice."""

    kind: str


Text = Annotated[str, "text", r".+"]
Limit = Annotated[int, ">= -1", "< 2147483648", "!= 0"]
Batches = Annotated[int, ">= 1", "< 2147483648"] | Annotated[float, "> 0", "<= 1"]
# days, hours, minutes, seconds, as Lightning's max_time
Duration = Annotated[str, "a time as '00:12:00:00' (days:hours:minutes:seconds)", r"\d{1,4}(:\d{2}){3}"]

TRAINER: dict[str, Any] = {
    "max_epochs": Limit | None,
    "max_steps": Limit,
    "min_epochs": Count | None,
    "min_steps": Count | None,
    "max_time": Duration | None,
    "limit_train_batches": Batches | None,
    "limit_val_batches": Batches | None,
    "overfit_batches": Batches,
    "val_check_interval": Batches | None,
    "check_val_every_n_epoch": Count,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": NonNegative | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "deterministic": bool | Literal["warn"] | None,
    "benchmark": bool | None,
    "detect_anomaly": bool,
    "inference_mode": bool,
}
# Options of the Trainer that are set by options of ours.
DECIDED = {
    "accelerator": "device.accelerator=VALUE",
    "devices": "-m seed=0,1 hydra/launcher=joblib, which gives each run a device of its own",
    "precision": "device.precision=VALUE",
    "logger": "logger=VALUE",
    "callbacks": "callbacks=VALUE",
    "fast_dev_run": "smoke=VALUE",
    "default_root_dir": "runs=VALUE",
}

RUN: dict[str, Any] = {
    "name": FolderName | int,
    "paper": FolderName | None,
    "paper_method": str | None,
    "notes": Sequence[str],
    "seed": Seed,
    "eval_seed": Seed,
    "checkpoint": Annotated[str, "last, best or epochN", r"last|best|epoch[1-9]\d{0,8}"],
    "snapshots": Sequence[Count],
    "smoke": bool,
    "retrain": bool,
    "runs": Text,
    "plugins": Sequence[str],
    "oracle": Mapping[str, Sequence[str]],
    "objective": {"score": str | None, "set": str | None, "metric": str | None},
    "data": "oodgen.data.module.OODDataModule",
    "model": "torch.nn.Module",
    "method": "oodgen.methods.method.Method",
    "probes": Parts("oodgen.probes.probe.Probe"),
    "scores": Parts("oodgen.scores.ensemble.Score"),
    "controls": Parts("oodgen.scores.ensemble.Score"),
    "means": Parts("oodgen.scores.ensemble.Score"),
    "trainer": TRAINER,
    "callbacks": Parts("pytorch_lightning.callbacks.Callback"),
    "logger": Parts("pytorch_lightning.loggers.logger.Logger"),
    "device": {
        "accelerator": Literal["auto", "cpu", "gpu"],
        "precision": Literal["auto", "32", "bf16"] | Literal[32],
        "channels_last": bool | Literal["auto"],
        "compile": bool,
        "threads": Annotated[int, ">= 1", "<= 1024"] | None,
    },
}

Betas = tuple[Annotated[float, ">= 0", "< 1"], Annotated[float, ">= 0", "< 1"]]
GRADIENT = {"lr": NonNegative, "weight_decay": NonNegative, "maximize": bool, "foreach": bool | None}
ADAM = GRADIENT | {"betas": Betas, "eps": NonNegative}
NAME = str | None

OTHERS: dict[str, dict[str, dict[str, Any]]] = {
    "torch.optim.Optimizer": {
        "torch.optim.Adam": ADAM | {"amsgrad": bool, "fused": bool | None},
        "torch.optim.AdamW": ADAM | {"amsgrad": bool, "fused": bool | None},
        "torch.optim.Adamax": ADAM,
        "torch.optim.NAdam": ADAM | {"momentum_decay": NonNegative, "decoupled_weight_decay": bool},
        "torch.optim.RAdam": ADAM | {"decoupled_weight_decay": bool},
        "torch.optim.Adagrad": GRADIENT
        | {"lr_decay": NonNegative, "initial_accumulator_value": NonNegative, "eps": NonNegative},
        "torch.optim.Adadelta": GRADIENT | {"rho": Probability, "eps": NonNegative},
        "torch.optim.RMSprop": GRADIENT
        | {"alpha": NonNegative, "eps": NonNegative, "momentum": NonNegative, "centered": bool},
        "torch.optim.SGD": GRADIENT | {"momentum": NonNegative, "dampening": float, "nesterov": bool},
    },
    "pytorch_lightning.callbacks.Callback": {
        "pytorch_lightning.callbacks.EMAWeightAveraging": {
            "decay": Probability,
            "update_every_n_steps": Count,
            "update_starting_at_step": Whole | None,
            "update_starting_at_epoch": Whole | None,
        },
        "pytorch_lightning.callbacks.EarlyStopping": {
            "monitor": Text,
            "min_delta": NonNegative,
            "patience": Whole,
            "mode": Literal["min", "max"],
            "stopping_threshold": float | None,
            "divergence_threshold": float | None,
        },
    },
    "pytorch_lightning.loggers.logger.Logger": {
        "pytorch_lightning.loggers.CSVLogger": {
            "save_dir": Text,
            "name": NAME,
            "version": int | str | None,
            "prefix": str,
            "flush_logs_every_n_steps": Count,
        },
        "pytorch_lightning.loggers.TensorBoardLogger": {
            "save_dir": Text,
            "name": NAME,
            "version": int | str | None,
            "prefix": str,
            "sub_dir": NAME,
            "default_hp_metric": bool,
            "purge_step": Whole | None,
            "flush_secs": Count,
        },
        "pytorch_lightning.loggers.MLFlowLogger": {
            "experiment_name": Text,
            "run_name": NAME,
            "tracking_uri": NAME,
            "tags": Mapping[str, str] | None,
            "save_dir": NAME,
            "prefix": str,
            "artifact_location": NAME,
            "run_id": NAME,
        },
        "pytorch_lightning.loggers.WandbLogger": {
            "name": NAME,
            "save_dir": Text,
            "version": NAME,
            "offline": bool,
            "id": NAME,
            "project": NAME,
            "entity": NAME,
            "group": NAME,
            "tags": Sequence[str],
            "notes": NAME,
            "log_model": bool | Literal["all"],
            "prefix": str,
            "settings": Mapping[str, str | int | float | bool | None],
        },
    },
}
