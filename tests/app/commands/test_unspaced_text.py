"""Text without spaces from `train` to `evaluate`: every place that tells a score tells how it was counted."""

from __future__ import annotations

import json
from random import Random

from app.run_process.forking import Changes, make_fork
from lattice.training import checkpoint
from lattice.training.progress import Progress
from monitors.runs import RunFolder
from tests.app.commands.conftest import QUICK


def test_chinese_is_scored_by_characters_in_events_at_the_end_and_by_evaluate_heal_and_a_fork_with_english_is_not(
    cli, tmp_path, sentences
):
    rng, runs = Random(0), tmp_path / "runs"
    data = tmp_path / "zh.txt"
    data.write_text("\n".join("".join(rng.choices("今天气很好我们去公园散步吧", k=9)) for _ in range(100)), encoding="utf-8")
    told = cli("train", *QUICK, "--data", data, "--runs-dir", runs)
    assert told.code == 0 and "BLEU counts Chinese characters and words" in told.err and "tok:zh" in told.out + told.err
    (folder,) = map(RunFolder, runs.iterdir())
    events = [json.loads(line) for line in folder.events_jsonl.read_text(encoding="utf-8").splitlines()]
    looks = [event for event in events if event["kind"] == "decoded"]
    assert looks and all("tok:zh" in look["signature"] for look in looks)

    for command in (("evaluate", "last", "--data", data), ("heal", "last", "--wound", "connections:0.5")):
        assert "tok:zh" in cli(*command, "--runs-dir", runs, "--json").json["signature"]
    assert "tok:13a" in cli("evaluate", "last", "--data", sentences, "--runs-dir", runs, "--json").json["signature"]

    fork = make_fork(folder.name, Changes((f"data.train={json.dumps(str(sentences))}",), steps=12), runs)
    progress = Progress.from_json(checkpoint.load_newest(fork.checkpoints)[0].state["progress"])
    assert (progress.tokenization, progress.bleu, progress.best_bleu) == (None, None, -1.0)
    assert checkpoint.best_path(fork.checkpoints) is None, "its score was that of other text"
