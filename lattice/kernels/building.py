"""C code, compiled at first use by the machine's own C compiler into a library that is kept for later runs.

A library is kept in the first folder that can be written and that programs can be loaded from: the user's cache, or else a
private folder for temporary files.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lattice.kernels.kernel import KernelUnavailable
from monitors.places import cache_folder, private_folders

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")

_log = logging.getLogger(__name__)


def cache_dirs() -> Iterator[Path]:
    """The folders of compiled libraries, best first."""
    if (cache := cache_folder()) is not None:
        yield cache / "kernels"
    for folder in private_folders():
        yield folder / "kernels"


def compiler() -> tuple[str, str]:
    """(command, remark): $CC or the first of cc, gcc and clang that is there, and "" or why it is not what CC names.

    Raises KernelUnavailable if there is none.
    """
    named, remark = os.environ.get("CC", "").strip(), ""
    if named:
        if shutil.which(named.split()[0]) is not None:
            return named, ""
        remark = f"CC names {named.split()[0]!r}, which is not there"
    for name in ("cc", "gcc", "clang"):
        if (found := shutil.which(name)) is not None:
            return found, remark
    because = f": {remark}, and neither is cc, gcc or clang" if remark else ""
    raise KernelUnavailable(f"no C compiler found{because} (install gcc, or set CC to a compiler)")


def compiled(main: str, sources: dict[str, str], *defines: str) -> ctypes.CDLL:
    """The library that `main` compiles to, which is one of the `sources` (text by file name).

    It is built once per machine and then taken from the cache, which tells libraries apart by sources, compiler, flags, defines
    and processor.
    Raises KernelUnavailable if it can't be built or loaded.
    """
    command, _ = compiler()
    arguments = [*command.split(), *FLAGS, *defines]
    # -march=native makes the binary fit one processor only: a home folder shared by several must not mix them up.
    key = hashlib.sha256("\0".join([*sources.values(), *arguments, _processor()]).encode()).hexdigest()[:16]
    name, problems = main.removesuffix(".c"), []
    for folder in cache_dirs():
        path = folder / f"{name}-{key}.so"
        try:
            return _loaded(main, sources, arguments, path)
        except subprocess.SubprocessError as error:  # it would fail in every folder
            said = str(getattr(error, "stderr", None) or error).strip().splitlines()
            raise KernelUnavailable(f"{command} could not build the {name} kernel: {said[-1]}") from error
        except OSError as error:  # the folder can't be written, is full, or holds no programs (noexec)
            problems.append(f"{folder}: {error.strerror or error}")
    told = "; ".join(problems) or "there is no folder to keep it in"
    raise KernelUnavailable(f"{command} could not build the {name} kernel: {told} (XDG_CACHE_HOME names another folder)")


def compiled_or_none(main: str, sources: dict[str, str], *defines: str, what: str) -> ctypes.CDLL | None:
    """As `compiled`, but None if it can't be built.  A line in the log then says that `what` is slower, and why."""
    try:
        return compiled(main, sources, *defines)
    except KernelUnavailable as error:
        _log.warning("%s will be slower, in plain torch, because %s", what, error)
        return None


def _loaded(main: str, sources: dict[str, str], arguments: list[str], path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # not built yet, or spoilt by a power cut
        _compile(main, sources, arguments, path)
        return ctypes.CDLL(str(path))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor() + platform.node()


def _compile(main: str, sources: dict[str, str], arguments: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, source in sources.items():
            Path(folder, name).write_text(source, encoding="utf-8")
        code, binary = Path(folder, main), Path(folder, "kernel.so")
        line, room = [*arguments, str(code), "-o", str(binary)], os.environ | {"TMPDIR": folder}
        subprocess.run(line, check=True, capture_output=True, text=True, timeout=120, env=room)
        ctypes.CDLL(str(binary))  # what can't be loaded must not be kept
        os.replace(binary, path)  # atomic: another process may be building the same one
