"""`task:NAME,argument=value` as a setting: what it is made of, and the task of the data that it brings with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from presets.layers import ConfigError, change, from_toml, load, to_toml
from presets.schema import Data
from presets.task_name import is_task, sentences, split
from presets.text_memory import TASK_SENTENCE, text_on_disk


def complaints(*assignments: str, file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load("tiny", file, assignments)
    return [str(problem) for problem in caught.value.problems]


def test_a_name_and_its_arguments_are_told_apart() -> None:
    assert split("task:house") == ("house", {})
    assert split("task:house, words = 4-28 ,seed=3") == ("house", {"words": "4-28", "seed": "3"})
    assert is_task("task:house") and not is_task("/text/task:house") and not is_task(None)


@pytest.mark.parametrize("source", ["task:", "task:,", "task:a,b", "task:a,=1", "task:a,b=", "task:a,b=1,b=1", "task:a b"])
def test_what_is_not_of_the_form_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=source.split(",")[0]):
        split(source)
    assert len(complaints(f"data.train={source}")) == 1


def test_a_task_as_data_makes_the_task_pairs_and_says_who_did() -> None:
    loaded = load("tiny", None, ["data.train=task:house,words=4-8"])
    assert (loaded.config.data.train, loaded.config.data.task) == ("task:house,words=4-8", "pairs")
    assert loaded.origin("data.task") == "--set"
    by_option = load("tiny", None, [], {"--data": 'data.train="task:house"'})
    assert (by_option.config.data.task, by_option.origin("data.task")) == ("pairs", "--data")
    assert from_toml(to_toml(loaded.config), "config.toml") == loaded.config


def test_a_task_in_a_file_makes_the_task_pairs_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ntrain = "task:lift"\n', encoding="utf-8")
    assert load("tiny", path).config.data.task == "pairs"
    path.write_text('[data]\ntrain = "task:lift"\ntask = "reconstruct"\n', encoding="utf-8")
    refusal = "data.task: reconstruct is for text, and task:lift has sources and targets of its own; use pairs"
    assert complaints(file=path) == [f"{path}: {refusal}"]


@pytest.mark.parametrize("task", ["reconstruct", "denoise", "continue"])
def test_another_task_that_was_asked_for_is_refused(task: str) -> None:
    for order in (["data.train=task:lift", f"data.task={task}"], [f"data.task={task}", "data.train=task:lift"]):
        assert complaints(*order)[0].startswith(f"--set: data.task: {task} is for text")
    assert load("tiny", None, ["data.train=task:lift", "data.task=pairs"]).config.data.task == "pairs"


def test_a_config_that_changes_to_a_task_becomes_one_of_pairs() -> None:
    plain = load("tiny").config
    assert change(plain, ["data.train=task:lift"]).data.task == "pairs"
    assert change(change(plain, ["data.train=task:lift"]), ["run.seed=3"]).data.task == "pairs"
    with pytest.raises(ConfigError, match="denoise is for text"):
        change(plain, ["data.train=task:lift", "data.task=denoise"])


def test_held_out_text_from_a_task_needs_pairs() -> None:
    assert "reconstruct is for text, and task:lift" in complaints("data.valid=task:lift")[0]
    assert (
        load("tiny", None, ["data.train=a.jsonl", "data.task=pairs", "data.valid=task:lift"]).config.data.valid == "task:lift"
    )


def test_noise_is_for_denoise_alone() -> None:
    assert load("tiny", None, ["data.task=denoise", "data.noise=0.3"]).config.data.noise == 0.3
    assert "data.noise: is for task = denoise and does nothing for pairs" in complaints("data.task=pairs", "data.noise=0.3")[0]
    assert complaints("data.task=denoise", "data.noise=0") and complaints("data.task=denoise", "data.noise=1.1")


def test_the_plan_counts_the_sentences_of_a_task() -> None:
    assert sentences("task:house") == 26_000
    assert sentences("task:house,count=50,held=7") == 57
    assert sentences("task:house,count=many,held=7") == 25_007
    data = Data(task="pairs", train="task:house", valid="task:lift,count=50,held=7")
    assert text_on_disk(data) == TASK_SENTENCE * (26_000 + 57)
