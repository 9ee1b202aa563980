"""Preset, file and `--set` become one config; every error is found at once and says where it came from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from presets.layers import ALIASES, ConfigError, Problem, flatten, from_toml, load, preset_names, to_toml


def problems(preset: str = "tiny", *assignments: str, file: Path | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(preset, file, assignments)
    return caught.value.problems


def complaints(*assignments: str) -> list[str]:
    return [str(problem) for problem in problems("tiny", *assignments)]


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Presets


def test_presets_are_listed_the_quickest_to_train_first() -> None:
    assert preset_names() == ["tiny", "walker", "baseline", "small", "medium", "large", "progressive"]


@pytest.mark.parametrize("name", preset_names())
def test_a_shipped_preset_loads_says_its_purpose_and_survives_toml(name: str) -> None:
    config = load(name).config
    assert config.purpose
    assert from_toml(to_toml(config), "config.toml") == config


@pytest.mark.parametrize(("alias", "name"), [("production_medium", "medium"), ("production_large", "large")])
def test_another_name_of_a_preset_loads_the_same_config(alias: str, name: str) -> None:
    assert ALIASES[alias] == name
    assert load(alias).config == load(name).config


def test_a_value_for_a_whole_section_is_answered_with_one_of_its_keys() -> None:
    assert complaints("rule=mlp") == ["--set: rule: is a section; set one of its keys, such as rule.kind (got 'mlp')"]
    assert complaints("stages.1.clustering=4") == [
        "--set: stages.1.clustering: is a section; set one of its keys, such as stages.1.clustering.clusters (got 4)"
    ]


def test_an_unknown_preset_is_answered_with_the_nearest_one() -> None:
    assert [str(p) for p in problems("larg")] == ["--preset: unknown preset 'larg'; did you mean 'large'?"]
    assert "allowed: tiny, walker" in str(problems("zzz")[0])


@pytest.mark.parametrize("text", ['say "so"\\n', "Решётка", "\U0001f600", "tab\there", "del\x7f", "line\nbreak", "'''"])
def test_any_text_survives_toml(text: str) -> None:
    config = load("tiny").config.model_copy(update={"purpose": text})
    assert from_toml(to_toml(config), "config.toml") == config


def test_settings_that_no_preset_names_survive_toml() -> None:
    changes = ["stages.0.until_loss=1e-5", "stages.1.until_plateau=3", "data.train=/a/b.txt", "run.memory_budget_gb=1.5e3"]
    config = load("tiny", None, changes).config
    assert config.stages[0].until_loss == 1e-5
    assert from_toml(to_toml(config), "config.toml") == config


def test_a_saved_config_that_is_broken_is_reported_under_its_own_name() -> None:
    with pytest.raises(ConfigError, match=r"^old/config\.toml: not valid TOML"):
        from_toml("stages = [", "old/config.toml")
    with pytest.raises(ConfigError, match=r"^old/config\.toml: stages: is required and was not given$"):
        from_toml("", "old/config.toml")


# Layers


def test_later_layers_win_and_tables_merge_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path, "[text]\nmax_tokens = 20\ngrid = 1\n")
    config = load("tiny", file, ["text.grid=3"]).config
    assert (config.text.max_tokens, config.text.grid) == (20, 3)
    assert config.text.vocabulary == load("tiny").config.text.vocabulary != type(config.text)().vocabulary


def test_a_file_replaces_the_list_of_stages_as_a_whole(tmp_path: Path) -> None:
    file = write(tmp_path, '[[stages]]\nname = "mine"\nshape = [6, 6, 8]\nsteps = 9\n')
    loaded = load("tiny", file)
    assert [stage.name for stage in loaded.config.stages] == ["mine"]
    assert loaded.config.stages[0].strides.z == ()
    assert loaded.origin("stages.0.strides.z") == "default"


def test_every_value_knows_the_layer_that_set_it(tmp_path: Path) -> None:
    file = write(tmp_path, "[text]\nmax_tokens = 20\n")
    loaded = load("tiny", file, ["decode.every=7", "stages.1.steps=40"])
    assert loaded.origin("text.vocabulary") == "preset tiny"
    assert loaded.origin("text.max_tokens") == str(file)
    assert loaded.origin("decode.every") == "--set"
    assert loaded.origin("stages.1.steps") == "--set"
    assert loaded.origin("stages.0.steps") == "preset tiny"
    assert loaded.origin("stages.0.strides.z") == "preset tiny"
    assert loaded.origin("run.seed") == "default"


@pytest.mark.parametrize("name", preset_names())
def test_origins_name_only_settings_that_exist(name: str) -> None:
    loaded = load(name)
    assert loaded.origins.keys() <= flatten(loaded.config).keys()


def test_one_load_does_not_change_the_next() -> None:
    before = load("tiny").config
    load("tiny", None, ["stages.0.steps=77", "text.grid=1"])
    assert load("tiny").config == before


def test_a_missing_file_and_one_that_is_not_toml_are_reported_with_their_path(tmp_path: Path) -> None:
    missing, broken = tmp_path / "none.toml", write(tmp_path, "a = ")
    assert [str(p) for p in problems(file=missing)] == [f"--config {missing}: can't be read: No such file or directory"]
    assert str(problems(file=broken)[0]).startswith(f"--config {broken}: not valid TOML")


def test_a_file_that_begins_with_a_byte_order_mark_is_read_and_utf_16_is_named(tmp_path: Path) -> None:
    text = "[run]\nseed = 7\n"
    marked, wide = tmp_path / "marked.toml", tmp_path / "wide.toml"
    marked.write_bytes(text.encode("utf-8-sig"))
    assert load("tiny", marked).config.run.seed == 7
    for encoding in ("utf-16", "utf-16-be"):
        wide.write_bytes(("\ufeff" * (encoding != "utf-16") + text).encode(encoding))
        assert [str(p) for p in problems(file=wide)] == [f"--config {wide}: is written in UTF-16; save it as UTF-8"]
    whole = to_toml(load("tiny").config)
    assert from_toml("\ufeff" + whole, "config.toml") == from_toml(whole, "config.toml")


def test_flatten_lists_every_setting_of_every_stage_with_its_value() -> None:
    flat = flatten(load("tiny").config)
    assert flat["stages.1.strides.z"][0] == (3,)
    assert flat["text.grid"] == (
        2,
        "G: a sentence becomes G x G slots, each on its own patch (face), or one after the other (time)",
    )
    assert "stages" not in flat


# --set


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("run.seed=3", "run.seed", 3),
        ("optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("stages.0.strides.z=[2, 3]", "stages.0.strides.z", (2, 3)),
        ("stages.0.strides={x=[2], z=[3]}", "stages.0.strides.x", (2,)),
        ("stages.1.steps=100", "stages.1.steps", 100),
        ("stages.0.clustering.clusters=4", "stages.0.clustering.clusters", 4),
        ("data.train=/corpora/my file.txt", "data.train", "/corpora/my file.txt"),
        ('data.train="2024"', "data.train", f"{Path.cwd()}/2024"),
        ("run.precision = bf16", "run.precision", "bf16"),
        ("run.device=cuda:1", "run.device", "cuda:1"),
        ("purpose=a=b", "purpose", "a=b"),
        ("purpose=", "purpose", ""),
    ],
)
def test_set_reads_toml_and_falls_back_to_a_string(assignment: str, path: str, value: object) -> None:
    loaded = load("tiny", None, [assignment])
    assert flatten(loaded.config)[path][0] == value
    assert loaded.origin(path) == "--set"


def test_set_reads_true_and_false_as_booleans_not_as_text() -> None:
    # No setting is a switch today: that a text field refuses the value shows how it was read.
    assert complaints("data.train=true") == ["--set: data.train: input should be a valid string (got True)"]


def test_a_table_that_set_replaces_no_longer_counts_as_the_presets() -> None:
    loaded = load("tiny", None, ["stages.0.strides={x=[2]}", "stages.0.ticks=9"])
    assert loaded.config.stages[0].strides.z == ()
    assert (loaded.origin("stages.0.strides.x"), loaded.origin("stages.0.strides.z")) == ("--set", "default")


def test_a_later_set_wins_over_an_earlier_one() -> None:
    assert load("tiny", None, ["run.seed=1", "run.seed=2"]).config.run.seed == 2


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("run.seed", "--set: 'run.seed' is not of the form section.key=value"),
        ("run..seed=1", "--set: 'run..seed=1' is not of the form section.key=value"),
        ("stages.2.steps=1", "--set: stages.2: there is no such entry; numbers 0 to 1 exist"),
        ("stages.last.steps=1", "--set: stages.last: there is no such entry; numbers 0 to 1 exist"),
        ("stages.².steps=1", "--set: stages.²: there is no such entry; numbers 0 to 1 exist"),
        ("stages.1=3", "--set: stages.1: names a whole entry; set one of its keys, such as stages.1.steps=100"),
        (
            "stages.0.shape.2=9",
            "--set: stages.0.shape.2: is part of a list; set the whole list, such as stages.0.shape=[4, 4, 6]",
        ),
        ("stages.0.name.x=1", "--set: stages.0.name: is a value, not a section; stages.0.name.x can't be set"),
    ],
)
def test_a_set_that_addresses_nothing_says_why(assignment: str, complaint: str) -> None:
    assert complaints(assignment) == [complaint]


# Errors


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("text.widht=3", "--set: text.widht: unknown key; did you mean 'width'?"),
        ("stages.0.strides.q=[3]", "--set: stages.0.strides.q: unknown key; allowed: x, y, z"),
        ("stages.1.tick=3", "--set: stages.1.tick: unknown key; did you mean 'ticks'?"),
        ("optimiser.clip=1", "--set: optimiser: unknown key; did you mean 'optimizer'?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one_or_all_of_them(assignment: str, complaint: str) -> None:
    assert complaints(assignment) == [complaint]


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("run.device=gpu", "--set: run.device: must be auto, cpu, cuda or cuda:N (got 'gpu')"),
        ("run.precision=fp8", "--set: run.precision: must be fp32, bf16 or fp16 (got 'fp8')"),
        ("run.precision=8", "--set: run.precision: must be fp32, bf16 or fp16 (got 8)"),
        (
            "stages.0.name=Big One",
            "--set: stages.0.name: must be at most 32 of a-z, 0-9, _ and -, a letter or digit first (got 'Big One')",
        ),
        ("training.micro_batch=3", "--set: training.micro_batch: 3 does not divide training.batch 16; 2 does"),
        ("stages.1.strides.z=[40]", "--set: stages.1.strides.z: 40 does not fit 8 cells; use strides below 8"),
        ("run.threads=-1", "--set: run.threads: input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_a_value_that_is_not_allowed_is_answered_with_what_is(assignment: str, complaint: str) -> None:
    assert complaints(assignment) == [complaint]


def test_a_rule_across_fields_names_the_full_path_of_the_field_and_the_layer_that_set_it() -> None:
    (problem,) = problems("tiny", "stages.1.ticks=2")
    assert (problem.path, problem.source) == ("stages.1.ticks", "--set")
    assert problem.message.startswith("2 ticks reach 0% of a lattice 8 deep with strides [3] along z; ")
    (problem,) = problems("tiny", "text.grid=5", "text.slot_width=8")
    assert (problem.path, problem.source) == ("stages.0.shape", "preset tiny")


def test_all_errors_are_reported_at_once_and_none_of_them_twice() -> None:
    found = problems("tiny", "nonsense", "run.device=gpu", "text.widht=3", "stages.0.ticks=2", "stages.1.strides.z=[40]")
    assert [problem.path for problem in found] == ["", "stages.0.ticks", "stages.1.strides.z", "run.device", "text.widht"]


def test_a_list_without_entries_is_still_reported_as_too_short() -> None:
    (problem,) = problems("tiny", "stages=[]")
    assert (problem.path, "at least 1 item" in problem.message) == ("stages", True)


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "[run]\nsead = 1\n\n[decode]\nevery = 0\n")
    assert [str(problem) for problem in problems(file=file)] == [
        f"{file}: run.sead: unknown key; did you mean 'seed'?",
        f"{file}: decode.every: input should be greater than or equal to 1 (got 0)",
    ]


def test_none_is_the_value_of_that_name_where_there_is_one_and_no_value_elsewhere() -> None:
    config = load("tiny", assignments=("stages.0.rewiring.regrow=none", "rule.kind=none", "rule.hidden=none")).config
    assert config.stages[0].rewiring.regrow == config.rule.kind == "none" and config.rule.hidden is None
    with pytest.raises(ConfigError, match=r"lattice\.boundary: must be walls or periodic"):
        load("tiny", assignments=("lattice.boundary=none",))


# Paths of text


def test_a_relative_path_in_a_file_means_a_file_beside_it_from_whatever_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "deep").mkdir()
    file = write(tmp_path / "deep", '[data]\ntrain = "mine.txt"\nvalid = "../held.txt"\n')
    monkeypatch.chdir(tmp_path)
    for named in (file, Path("deep/mine.toml")):
        data = load("tiny", named).config.data
        assert (data.train, data.valid) == (f"{tmp_path}/deep/mine.txt", f"{tmp_path}/held.txt")


def test_a_relative_path_that_is_assigned_means_the_current_folder_and_is_kept_as_that(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load("tiny", None, ["data.train=a.txt"], {"--valid": 'data.valid="b.txt"'}).config
    monkeypatch.chdir("/")
    assert (config.data.train, config.data.valid) == (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")
    assert from_toml(to_toml(config), "config.toml") == config


def test_the_home_folder_a_bundled_task_and_an_absolute_path_are_what_they_say(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    file = write(tmp_path, '[data]\ntrain = "task:house"\nvalid = "~/held.jsonl"\ntask = "pairs"\n')
    data = load("tiny", file).config.data
    assert (data.train, data.valid) == ("task:house", "/home/ann/held.jsonl")
    assert load("tiny", None, ["data.train=/x/y.txt"]).config.data.train == "/x/y.txt"


def test_a_config_that_comes_through_a_pipe_means_the_current_folder(monkeypatch, tmp_path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'[data]\ntrain = "a.txt"\n')
    os.close(writing)
    monkeypatch.chdir(tmp_path)
    assert load("tiny", Path(f"/dev/fd/{reading}")).config.data.train == f"{tmp_path}/a.txt"
    os.close(reading)
