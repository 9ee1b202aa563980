"""Which tick kernel runs where, how the C one is built and kept, and what its large tensors ask of the system."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

from lattice.kernels import building, choose, native
from lattice.kernels.native import KernelUnavailable, NativeKernel
from presets.topology import Topology

CPU = torch.device("cpu")


# Which kernel runs


@pytest.fixture
def no_library_kept(monkeypatch, tmp_path):
    """The compiled library is kept per channel count for the process; these tests must build it anew, and leave no trace."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def kept(folder):
    """The files of a folder of kernels."""
    return list((folder / "kernels").iterdir())


def break_torch_compile(monkeypatch):
    def refuse(function, **options):
        def fail(*arguments):
            raise RuntimeError("no C++ compiler\nand more lines that nobody needs")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)


def hide_c_compilers(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(building.shutil, "which", lambda name: None)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_auto_takes_the_native_kernel_for_fp32_and_bf16_on_the_cpu(dtype, name):
    kernel, line = choose("auto", Topology((3, 3, 3)), 12, CPU, dtype)
    assert isinstance(kernel, NativeKernel)
    assert kernel.empty_state((1, 3, 3, 12, 3)).dtype == dtype
    assert line == f"tick kernel: native (C, {name})"


def test_auto_without_any_compiler_runs_the_reference_and_says_why_in_one_line(no_library_kept, monkeypatch):
    hide_c_compilers(monkeypatch)
    break_torch_compile(monkeypatch)
    kernel, line = choose("auto", Topology((3, 3, 3)), 12, CPU, torch.float32)
    assert kernel is None
    assert line.startswith("tick kernel: reference (plain torch, slower) because ")
    assert "no C compiler found" in line
    assert "torch.compile does not work here (no C++ compiler)" in line
    assert "\n" not in line


def test_native_by_name_without_a_c_compiler_is_refused(no_library_kept, monkeypatch):
    hide_c_compilers(monkeypatch)
    with pytest.raises(KernelUnavailable, match="no C compiler found"):
        choose("native", Topology((3, 3, 3)), 12, CPU, torch.float32)


def test_compiled_by_name_where_torch_compile_fails_is_refused(monkeypatch):
    break_torch_compile(monkeypatch)
    with pytest.raises(KernelUnavailable, match=r"torch\.compile does not work here \(no C\+\+ compiler\)$"):
        choose("compiled", Topology((3, 3, 3)), 12, CPU, torch.float32)


def test_native_by_name_refuses_states_in_fp16():
    with pytest.raises(KernelUnavailable, match="fp32 and bf16 on the CPU, not float16 on cpu"):
        choose("native", Topology((3, 3, 3)), 12, CPU, torch.float16)


def test_native_refuses_more_offsets_than_its_buffers_hold():
    crowded = Topology((16, 64, 64), (tuple(range(2, 16)), tuple(range(2, 31)), tuple(range(2, 11))))
    assert len(crowded.offsets) == 130
    with pytest.raises(KernelUnavailable, match="128 offsets at most, not 130"):
        NativeKernel(crowded, 12)


def test_reference_by_name_needs_no_compiler(no_library_kept, monkeypatch):
    hide_c_compilers(monkeypatch)
    break_torch_compile(monkeypatch)
    assert choose("reference", Topology((3, 3, 3)), 12, CPU, torch.float32)[0] is None


def test_an_unknown_implementation_is_a_value_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="'fast' is not one of auto, native, triton, compiled, reference"):
        choose("fast", Topology((3, 3, 3)), 12, CPU, torch.float32)


# Building the C kernel


def test_a_compiler_that_fails_leaves_the_cache_empty(no_library_kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    with pytest.raises(KernelUnavailable, match="false could not build the tick kernel"):
        native.library(12)
    assert kept(tmp_path / "lattice-tui") == []


@pytest.mark.parametrize("body", ["exit 0", 'for last; do :; done; echo garbage > "$last"'], ids=["no output", "garbage"])
def test_a_compiler_without_usable_output_leaves_the_cache_empty(body, no_library_kept, monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text(f"#!/bin/sh\n{body}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(KernelUnavailable, match="could not build the tick kernel"):
        native.library(12)
    assert kept(tmp_path / "lattice-tui") == []


def temporary_kernels(tmp_path):
    return kept(tmp_path / f"lattice-tui-{os.getuid()}")


def test_without_a_home_folder_the_kernel_is_kept_in_a_private_temporary_folder(no_library_kept, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    native.library(2)
    assert [path.suffix for path in temporary_kernels(tmp_path)] == [".so"]


def test_a_cache_that_can_not_be_written_gives_way_to_the_private_temporary_folder(no_library_kept, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    native.library(2)
    assert [path.suffix for path in temporary_kernels(tmp_path)] == [".so"]


def test_a_temporary_folder_that_others_may_use_holds_no_kernels(no_library_kept, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / f"lattice-tui-{os.getuid()}").mkdir(mode=0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KernelUnavailable, match=r"could not build the tick kernel: .*(Not a dir|File exists).*XDG_CACHE_HOME"):
        native.library(2)
    assert list((tmp_path / f"lattice-tui-{os.getuid()}").iterdir()) == []


def test_a_compiler_that_is_not_there_is_passed_over_and_the_line_says_so(no_library_kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "x86_64-conda-linux-gnu-cc -O1")
    kernel, line = choose("auto", Topology((3, 3, 3)), 2, CPU, torch.float32)
    assert isinstance(kernel, NativeKernel)
    assert line.startswith("tick kernel: native (C, fp32), built by ")
    assert line.endswith("because CC names 'x86_64-conda-linux-gnu-cc', which is not there")


def test_a_missing_compiler_without_another_is_named_with_what_would_help(no_library_kept, monkeypatch):
    hide_c_compilers(monkeypatch)
    monkeypatch.setenv("CC", "nosuchcc")
    with pytest.raises(KernelUnavailable, match=r"CC names 'nosuchcc', which is not there, and neither is cc.*install gcc"):
        choose("native", Topology((3, 3, 3)), 2, CPU, torch.float32)


def test_a_slower_kernel_on_the_cpu_says_why_it_was_taken(no_library_kept, monkeypatch):
    hide_c_compilers(monkeypatch)
    monkeypatch.setattr("lattice.kernels.choice.CompiledKernel", lambda *arguments: object())
    _, line = choose("auto", Topology((3, 3, 3)), 2, CPU, torch.float32)
    assert line == (
        "tick kernel: compiled (torch.compile), slower, because no C compiler found (install gcc, or set CC to a compiler)"
    )


def test_the_compiler_needs_no_writable_folder_but_the_cache(no_library_kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    ran = building.subprocess.run

    def run(line, env, **options):
        assert Path(env["TMPDIR"]).parent == tmp_path / "lattice-tui" / "kernels"
        return ran(line, env=env, **options)

    monkeypatch.setattr(building.subprocess, "run", run)
    native.library(2)


def test_plasticity_and_optimizers_in_plain_torch_say_why(monkeypatch, caplog):
    hide_c_compilers(monkeypatch)
    assert building.compiled_or_none("spikes.c", {}, what="plasticity") is None
    assert caplog.messages == [
        "plasticity will be slower, in plain torch, because no C compiler found (install gcc, or set CC to a compiler)"
    ]


def test_a_kernel_is_built_once_and_then_taken_from_the_cache(no_library_kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library(2)
    (built,) = kept(tmp_path / "lattice-tui")
    assert built.suffix == ".so"

    def refuse(*arguments, **options):
        raise AssertionError("compiled again")

    native.library.cache_clear()
    monkeypatch.setattr(building.subprocess, "run", refuse)
    native.library(2)
    assert kept(tmp_path / "lattice-tui") == [built]


def test_a_spoilt_kernel_in_the_cache_is_built_again(no_library_kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def write_nothing(main, sources, arguments, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    with monkeypatch.context() as spoiling:
        spoiling.setattr(building, "_compile", write_nothing)
        with pytest.raises(KernelUnavailable, match="could not build the tick kernel"):
            native.library(2)
    (spoilt,) = kept(tmp_path / "lattice-tui")
    assert spoilt.stat().st_size == 0
    native.library(2)
    assert spoilt.stat().st_size > 0
