"""Finds a run by its name, and reads the config that it was started with.  Torch-free."""

from __future__ import annotations

from pathlib import Path

from app.exit_codes import ExitCode, Stop
from monitors import runs
from monitors.runs import NoSuchRun, RunFolder, RunFolderError
from presets.layers import ConfigError, from_toml
from presets.schema import RunConfig


def find_run(runs_dir: Path | None, name: str) -> RunFolder:
    """The folder of the run that `name` means: its name, a unique beginning of it, a path, or `last`.

    Raises Stop if there is no such run, or more than one.
    """
    try:
        return RunFolder.find(runs.runs_dir(runs_dir), name)
    except NoSuchRun as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error


def run_config(folder: RunFolder) -> RunConfig:
    """The config that a run was started with.  Raises Stop if its file can't be read or is wrong."""
    try:
        return from_toml(folder.read_config(), str(folder.config_toml))
    except OSError as error:
        raise Stop(ExitCode.NO_SUCH_RUN, f"{folder.config_toml} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Stop(ExitCode.USAGE, f"{folder.config_toml}: not valid UTF-8: {error.reason}") from error
    except ConfigError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
