"""The bodies of `evaluate` and `decode`: run a saved model on a text file, or on one text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from app import formats
from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.run_process.prepare import choose_device
from app.saved_models.opening import open_run
from lattice.data.batches import Sentences
from lattice.data.corpus import pairs_to_score
from lattice.data.pair import DataError
from lattice.data.tokenizer import pad
from lattice.model.text_lattice import CONTROLS
from lattice.observing.scoring import evaluate
from monitors.text_safety import printable
from presets.measure import measure_on


def evaluate_run(run: str, data: Path, control: str, best: bool, device: str, runs_dir: Path | None, as_json: bool) -> None:
    """Scores a run on the sentences of `data` and prints the scores.

    Raises Stop if the model or the data can't be read, or if `control` is unknown or says nothing of this model.
    """
    if control not in CONTROLS:
        raise Stop(ExitCode.USAGE, f"--control: {control!r} is not one of {', '.join(CONTROLS)}")
    opened = open_run(find_run(runs_dir, run), choose_device(device), best)
    if control == "bypass" and opened.model.lattice is None:
        arm = opened.config.lattice.arm
        raise Stop(ExitCode.USAGE, f"--control: there are no messages to bypass with lattice.arm = {arm}; use none or shuffled")
    left_out: dict[str, int] = {}
    try:
        pairs = pairs_to_score(data, opened.config, left_out)
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    if control == "shuffled" and len(pairs) < 2:
        raise Stop(ExitCode.USAGE, f"{data}: --control shuffled needs at least two sentences")
    with torch.no_grad():
        sentences = Sentences(pairs, opened.tokenizer, opened.config.text.max_tokens)
        quality, said = evaluate(opened.model, sentences, opened.tokenizer, opened.chunk, control)
    limit = opened.config.text.max_tokens
    for reason, count in left_out.items():
        print(f"note: {count} sentences are left out: {reason}", file=sys.stderr)
    for side, count in sorted(sentences.cut.items()):
        note = f"note: {count} of {len(pairs)} {side}s are longer than text.max_tokens = {limit} and are cut there"
        print(note, file=sys.stderr)
    fields = {"bleu": quality.bleu, "chrf": quality.chrf, "exact": quality.exact, "count": quality.count}
    measure = measure_on(str(data))
    if as_json:
        print(json.dumps(fields | {"measure": measure, "signature": quality.signature, "control": control}))
        return
    for pair, text in list(zip(pairs, said, strict=True))[:5]:
        question = "" if sentences.same else f"  {printable(pair.source)}\n  = "
        print(f"{question or '  '}{printable(pair.target)}\n  -> {printable(text)}")
    chrf, exact = f"chrF {formats.score(quality.chrf)}", f"exact {quality.exact:.1%}"
    scores = f"BLEU {formats.score(quality.bleu)}  {chrf}  {exact}" if measure == "bleu" else f"{exact}  {chrf}"
    print(f"{scores}  on {formats.count(quality.count)} sentences, control {control}, step {opened.progress.step}")
    if measure == "bleu":
        print(quality.signature)


def decode_text(run: str, text: str, best: bool, device: str, runs_dir: Path | None, as_json: bool) -> None:
    """Prints what comes back for one text.  Raises Stop if the model can't be opened."""
    target = choose_device(device)
    opened = open_run(find_run(runs_dir, run), target, best)
    tokens = opened.tokenizer.encode([" ".join(text.split())])[0]
    limit = opened.config.text.max_tokens
    said = opened.tokenizer.decode(opened.model.say(pad([tokens[:limit]]).to(target)))[0]
    cut = max(0, len(tokens) - limit)
    if as_json:
        print(json.dumps({"text": text, "said": said, "tokens": len(tokens), "cut": cut, "step": opened.progress.step}))
        return
    print(printable(said))
    if cut:
        print(
            f"note: the text has {len(tokens)} tokens; the last {cut} are beyond text.max_tokens = {limit} and were cut",
            file=sys.stderr,
        )
