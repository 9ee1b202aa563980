"""`heal`: what it prints, that the run stays as it is, and what it refuses."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch

from app.saved_models.opening import open_run
from lattice.data.corpus import load_corpus
from lattice.training import checkpoint
from monitors.runs import RunFolder
from tests.app.commands.conftest import QUICK
from tests.app.commands.test_cli import assert_refused


@pytest.fixture
def runs(home):
    """The runs folder with the one finished run."""
    return home[0] / "runs"


def files(folder) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_it_tells_the_scores_of_three_lattices_and_leaves_the_run_alone(cli, runs):
    before = files(runs)
    told = cli("heal", "last", "--runs-dir", runs, "--by", "stdp", "--waves", 3, "--wound", "connections:0.5", "--json")
    assert (told.code, told.err) == (0, "") and files(runs) == before
    fields = told.json
    assert list(fields)[:6] == ["intact", "wounded", "healed", "waves", "sentences", "wound"]
    assert all(set(fields[name]) == {"bleu", "chrf", "exact"} for name in ("intact", "wounded", "healed"))
    assert (fields["waves"], fields["sentences"], fields["wound"]) == (3, 24, "connections:0.5")
    assert fields["connections"] > 1000 and fields["cells"] == 0 and fields["step"] == 6


def test_the_intact_lattice_scores_as_evaluate_says_and_the_wound_shows(cli, runs, tmp_path):
    opened = open_run(RunFolder(next(runs.iterdir())), torch.device("cpu"))
    held = tmp_path / "held_out.txt"
    held.write_text("\n".join(pair.source for pair in load_corpus(opened.config).valid) + "\n", encoding="utf-8")
    told = cli("evaluate", "last", "--runs-dir", runs, "--data", held, "--json")
    fields = cli("heal", "last", "--runs-dir", runs, "--by", "stdp", "--waves", 0, "--wound", "connections:0.9", "--json").json
    assert fields["intact"] == {name: told.json[name] for name in ("bleu", "chrf", "exact")}
    assert fields["healed"] == fields["wounded"] != fields["intact"] and fields["waves"] == 0 and not fields["settled"]


def test_the_table_has_a_row_for_each_and_an_example(cli, runs):
    told = cli("heal", "last", "--runs-dir", runs, "--by", "stdp", "--waves", 2, "--wound", "cells:0.2")
    rows = [line.split()[0] for line in told.out.splitlines()]
    assert rows[1:5] == ["lattice", "intact", "wounded", "healed"]
    assert "cells destroyed" in told.out and "2 waves of 8 sentences" in told.out and "unchanged" in told.out


@pytest.mark.parametrize("wound", ["connections:0.7", "cells:0.3", "noise:2"])
def test_neighbours_heal_without_waves_and_it_says_so(cli, runs, wound):
    call = ("heal", "last", "--runs-dir", runs, "--wound", wound)
    fields = cli(*call, "--json").json
    assert (fields["by"], fields["waves"], fields["settled"]) == ("neighbours", 0, True)
    assert fields["still_lost"] == 0 and fields["sentences"] == 0
    told = cli(*call).out
    assert "healed by neighbours" in told and "STDP" not in told and "unchanged" in told


def test_the_same_seed_tells_the_same_and_another_does_not(cli, runs):
    def told(seed: int) -> dict:
        fields = cli("heal", "last", "--runs-dir", runs, "--by", "stdp", "--waves", 2, "--seed", seed, "--json").json
        return {name: fields[name] for name in ("wounded", "healed", "connections")}

    assert told(1) == told(1) != told(2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--wound", "connections"], "KIND:AMOUNT"),
        (["--wound", "legs:0.5"], "connections, cells, block, shuffle, noise"),
        (["--wound", "connections:1"], "nothing to heal from"),
        (["--wound", "cells:0"], "would change nothing"),
        (["--wound", "block:99"], "does not fit"),
        (["--by", "stdp", "--data", "nowhere.txt"], "no such file"),
        (["--data", "nowhere.txt"], "--data: neighbours run no sentences; add --by stdp"),
        (["--waves", "3"], "--waves: neighbours run no sentences; add --by stdp"),
    ],
)
def test_what_can_not_be_healed_is_refused(cli, runs, options, says):
    assert_refused(cli("heal", "last", "--runs-dir", runs, *options), 2, says)


def test_a_run_that_was_left_wounded_opens_with_what_it_lost(cli, runs, tmp_path):
    """What a live run lost is marked in its checkpoint."""
    folder = shutil.copytree(next(runs.iterdir()), tmp_path / "runs" / "wounded")
    path, _ = max((path, path.name) for path in (folder / "checkpoints").iterdir() if path.is_dir())
    saved = checkpoint.load(path)
    lost = torch.zeros_like(saved.model["lattice.weights"], dtype=torch.bool)
    lost[0] = True
    saved.model["lattice.lost"] = lost
    saved.model["lattice.weights"][lost] = 0.0
    shutil.rmtree(path)
    checkpoint.save(folder / "checkpoints", 6, saved.model, saved.optimizer, saved.state, saved.tokenizer)
    told = cli("heal", folder, "--by", "stdp", "--waves", 2, "--wound", "connections:0.1", "--json")
    assert told.code == 0, told.err
    opened = open_run(RunFolder(folder), torch.device("cpu"))
    assert opened.model.lattice is not None and torch.equal(opened.model.lattice.lost, lost)


def test_text_in_another_script_is_refused(cli, runs, tmp_path):
    text = tmp_path / "other.txt"
    text.write_text("Кошка спит на окне.\nСобака бежит домой.\n", encoding="utf-8")
    assert_refused(cli("heal", "last", "--runs-dir", runs, "--by", "stdp", "--data", text), 2, "CYRILLIC", "LATIN")


def test_a_run_without_a_lattice_has_nothing_to_wound(cli, sentences, tmp_path):
    runs = tmp_path / "runs"
    assert cli("train", *QUICK, "--data", sentences, "--runs-dir", runs, "--set", "lattice.arm=identity", "--json").code == 0
    assert_refused(cli("heal", "last", "--runs-dir", runs), 2, "without a lattice")
