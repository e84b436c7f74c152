"""The config of a command is composed once; Hydra does so a first time only to see whether it asks for a grid."""

from hydra._internal import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig

__all__ = ["compose_once"]


class _Once(ConfigLoaderImpl):
    """Keeps the config or the error of the first composition for the run of the same overrides."""

    _asked: list[str | None] | None = None
    _found: DictConfig | ConfigCompositionException

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        asked = [config_name, *(word for word in overrides if word != "hydra.mode=RUN")]  # which Hydra adds meanwhile
        compose = super().load_configuration
        if not validate_sweep_overrides:  # the first time
            try:
                self._asked, self._found = asked, compose(config_name, overrides, RunMode.RUN, from_shell, False)
            except ConfigCompositionException as error:
                if "You must specify" in str(error):  # what each cell of a grid may
                    return compose(config_name, overrides, run_mode, from_shell, False)
                self._asked, self._found = asked, error
        elif run_mode == RunMode.RUN and asked == self._asked:
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        else:
            return compose(config_name, overrides, run_mode, from_shell)
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def compose_once() -> None:
    """Let this process compose so."""
    hydra.ConfigLoaderImpl = _Once  # type: ignore[misc]
