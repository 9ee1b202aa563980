"""Checks what a command needs before it trains or reads a model: the device, memory for the plan, and data."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import threading

import torch

from app import planning
from app.exit_codes import ExitCode, Stop
from lattice.data.corpus import Corpus, DataError, load_corpus
from lattice.observing.measuring import device_name
from monitors import gauges
from presets.allowance import threads
from presets.plan import explain, on_device
from presets.schema import RunConfig


def choose_device(name: str) -> torch.device:
    """The device that `run.device` names.  Raises Stop if it is not there, or if the name is wrong."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise Stop(ExitCode.USAGE, f"--device: {name!r} is not auto, cpu, cuda or cuda:N")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Stop(ExitCode.NO_DEVICE, f"{name} was asked for, but torch sees no CUDA GPU here; use --device cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise Stop(
            ExitCode.NO_DEVICE,
            f"{name} was asked for; this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}",
        )
    return torch.device("cuda", index)


def free_bytes(device: torch.device) -> float:
    """The bytes of memory that a run on this device could take now; infinite if they can't be found out.

    Raises Stop if a GPU can't be used.
    """
    if device.type == "cuda":
        try:
            return torch.cuda.mem_get_info(device)[0]
        except RuntimeError as error:  # the driver lost the GPU, or another process holds it exclusively or has filled it
            message = str(error).strip().partition("\n")[0]
            raise Stop(
                ExitCode.NO_DEVICE, f"{device} can't be used: {message}; nvidia-smi tells what is wrong with it"
            ) from error
    memory = gauges.host_memory()
    return memory.available_bytes if memory else math.inf


def prepare(config: RunConfig) -> tuple[torch.device, Corpus]:
    """Checks device, memory plan and data before anything is written.  Returns the device and the corpus.

    Raises Stop if one of them does not allow the run.
    """
    return prepare_device(config), read_corpus(config)


def prepare_device(config: RunConfig) -> torch.device:
    """Returns the device that a config trains on, after checking the memory plan.  Sets the number of torch's threads.

    Raises Stop if the device is not there, or if a stage does not fit the budget or the free memory.
    """
    device = choose_device(config.run.device)
    free = free_bytes(device)
    planned = planning.for_training(config, device.type, device_name(device))
    for stage in planned(on_device(config, device.type), _without_triton(config, device)):
        if not stage.fits:
            raise Stop(ExitCode.NO_DEVICE, explain(stage))
        if stage.needed_bytes > free:
            raise Stop(
                ExitCode.NO_DEVICE,
                f"stage {stage.name} needs {stage.needed_bytes / 1e9:.2f} GB, and {device} has {free / 1e9:.2f} GB free; "
                f"`--memory-budget {math.floor(free / 1e8) / 10}` plans for what is there, or says what would help",
            )
    wanted = threads(config.run.threads)
    if (possible := _startable(wanted)) < wanted:
        raise Stop(
            ExitCode.NO_DEVICE,
            f"only {possible} of {wanted} threads can be started here (`ulimit -u`, or the limit of the container or job); "
            f"--set run.threads={possible} does with fewer",
        )
    torch.set_num_threads(wanted)
    return device


def _startable(wanted: int) -> int:
    """How many of `wanted` threads can run at once beside the one of the control socket; this one counts, so at least one.

    OpenMP ends the whole process if it gets too few.
    """
    if wanted == 1:
        return 1
    end, started = threading.Event(), list[threading.Thread]()
    with contextlib.suppress(RuntimeError):
        for _ in range(wanted):
            thread = threading.Thread(target=end.wait)
            thread.start()
            started.append(thread)
    end.set()
    for thread in started:
        thread.join()
    return max(1, len(started))


def _without_triton(config: RunConfig, device: torch.device) -> str | None:
    """The kernel that a GPU gets if triton is not installed; None if the plan's own assumption holds."""
    triton = device.type == "cuda" and config.run.kernel == "auto"
    return "compiled" if triton and importlib.util.find_spec("triton") is None else None


def read_corpus(config: RunConfig) -> Corpus:
    """The corpus that a config names.  Raises Stop if it can't be read."""
    try:
        return load_corpus(config)
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
