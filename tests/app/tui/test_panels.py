"""Memory, clusters, plasticity, scores of samples: what panels say of given events, of real runs, and of what is absent."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app import formats
from app.tui import slices
from app.tui.app import LatticeApp
from app.tui.bridge import Reader, volume_at
from app.tui.fold import fold
from app.tui.snapshot import Look, Snapshot, View
from app.tui.widgets.decoded import look_lines
from app.tui.widgets.memory import gpus, sensors
from app.tui.widgets.panel import spark
from app.tui.widgets.plasticity import box
from monitors.event_log import read_events
from monitors.events import AfterWord, Sample, StageStarted, VolumeSaved
from monitors.gauges import Absent, Gpu, GpuMemory
from monitors.runs import RunFolder
from monitors.volumes import Volume
from presets.layers import load

GRU = ("lattice.arm=gru", "text.reading=time", "text.lag=2")
CARD = Gpu(0, "NVIDIA H200", "GPU-5c1a", GpuMemory(10_000_000_000, 130_000_000_000, 140_000_000_000), 0.93, 612.4, 700.0, 61.0)


def still(view: View, **options: object) -> LatticeApp:
    return LatticeApp(Path("/runs"), RunFolder(Path(view.folder)), plain=options.pop("plain", False), still=view, **options)


def with_memory(view: View, **changes: object) -> View:
    memory = view.snapshot.memory.model_copy(update=changes)
    return replace(view, snapshot=replace(view.snapshot, memory=memory))


def configured(view: View, *assignments: str) -> View:
    """As the view, of a run of `tiny` with these settings that has recorded neither clusters nor plasticity nor cells."""
    snapshot = replace(view.snapshot, volume=None)
    return replace(view, config=load("tiny", None, list(assignments)).config, snapshot=snapshot, volume=None)


# Memory


def test_every_gpu_is_shown_with_its_readings_and_the_runs_own_is_marked(use, fixed_view):
    other = replace(CARD, index=1, uuid="GPU-77", busy=0.0)
    counts = {"allocated_bytes": 300_000_000, "reserved_bytes": 500_000_000, "peak_bytes": 306_500_000}
    view = with_memory(fixed_view, device="cuda:1", device_uuid="77", **counts)
    view = replace(view, host=replace(view.host, gpus=(CARD, other)))

    async def look(screen):
        await screen.press("4")
        await screen.shows("GPU 0        10 GB of 140 GB (NVIDIA H200)", "93% busy, 612 of 700 W, 61 C")
        await screen.shows("GPU 1        this run's, 10 GB of 140 GB", "0% busy, 612 of 700 W")
        await screen.shows("torch        300 MB allocated of 500 MB reserved on cuda:1")
        await screen.shows("peak         306 MB measured, 50% of the plan")

    use(still(view), (80, 24), look)


def test_a_reading_that_is_absent_gives_its_reason_and_leaves_the_others():
    denied = Absent("Insufficient Permissions")
    assert sensors(replace(CARD, busy=denied, power_w=denied)) == "61 C, busy, power - (Insufficient Permissions)"
    assert sensors(replace(CARD, power_limit_w=denied)) == "93% busy, 612 W, 61 C"
    assert (
        sensors(replace(CARD, temperature_c=Absent("Not Supported"))) == "93% busy, 612 of 700 W, temperature - (Not Supported)"
    )


def test_memory_of_a_gpu_that_may_not_be_read_says_why(fixed_view):
    split = replace(CARD, memory=Absent("Insufficient Permissions; it is split into MIG instances"))
    rows = gpus(replace(fixed_view.host, gpus=(split,)), "abc")
    assert rows[0][1] == "memory - (Insufficient Permissions; it is split into MIG instances) (NVIDIA H200)"
    assert rows[2][:2] == ("run's GPU", "none of these: abc (another machine's, or a MIG instance)")


def test_without_a_gpu_and_without_the_process_the_panel_gives_reasons_and_the_last_known_number(use, fixed_view):
    async def look(screen):
        await screen.press("4")
        await screen.shows("VRAM         - (NVML Shared Library Not Found)", "510 MB at step 40 (the run has ended)")
        await screen.shows("torch        - (it counts GPU memory, the run is on cpu)")
        await screen.shows("peak         600 MB measured, 98% of the plan")

    use(still(replace(fixed_view, host=replace(fixed_view.host, rss_bytes=Absent("the run has ended")))), (80, 24), look)


def test_a_peak_above_the_plan_is_told_and_an_older_log_has_no_counts(use, fixed_view):
    async def above(screen):
        await screen.press("4")
        await screen.shows(f"peak         {formats.bytes_(peak)} measured, 200% of the plan")

    peak = 2 * fixed_view.plans[1].total_bytes
    use(still(with_memory(fixed_view, peak_bytes=peak)), (80, 24), above)

    async def older(screen):
        await screen.press("4")
        await screen.shows("torch        - (this run recorded none)", "peak         600 MB measured")

    use(still(replace(fixed_view, snapshot=replace(fixed_view.snapshot, memory=None), state="finished")), (80, 24), older)


# Clusters


def test_a_clustering_is_told_in_numbers_each_with_what_it_means(use, lit_view):
    async def look(screen):
        await screen.press("5")
        await screen.shows("clusters    6 formed at step 40 in 800 ms, 1 merged", "sizes       120 .. 6 cells, median 20")
        await screen.shows("█▆▃▂▁▁", "silhouette  0.21 (-1..1)", "stability   0.83 against the one before (0..1)")

    use(still(lit_view), (80, 24), look)


def test_a_first_clustering_has_no_stability(use, lit_view):
    latest = lit_view.snapshot.clustering.latest.model_copy(update={"stability": None, "silhouette": None})
    snapshot = replace(lit_view.snapshot, clustering=replace(lit_view.snapshot.clustering, latest=latest))

    async def look(screen):
        await screen.press("5")
        await screen.shows("stability   - (there was no clustering before this one)", "silhouette  - (-1..1)")

    use(still(replace(lit_view, snapshot=snapshot)), (80, 24), look)


def test_keys_turn_the_cut_move_it_and_colour_it_by_cluster(use, fixed_view):
    async def look(screen):
        await screen.press("5")
        await screen.shows("y=2 (0..5), activity 0..0.031", "step 40: x down, z across, input left, output right", "▀▀▀▀")
        await screen.press("full_stop")
        await screen.shows("y=3 (0..5)")
        await screen.press(*["comma"] * 9)
        await screen.shows("y=0 (0..5)")
        await screen.press("a")
        await screen.shows("z=0 (0..7)", "x down, y across")
        await screen.press("a", *["full_stop"] * 9)
        await screen.shows("x=5 (0..5)", "y down, z across")
        await screen.press("v")
        await screen.shows("x=5 (0..5), cluster")

    use(still(fixed_view), (80, 24), look)


@pytest.mark.parametrize("how", ["plain", "NO_COLOR"])
def test_without_colour_cells_are_signs_and_clusters_letters(use, fixed_view, how, monkeypatch):
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")

    async def look(screen):
        await screen.press("5")
        lightest, darkest = ("  ", "@@") if how == "plain" else ("  ", "██")
        await screen.until(lambda: any(darkest in row and "▀" not in row for row in screen.rows))
        await screen.press("v")
        await screen.shows("A" * 8 + "D" * 8, "C" * 8 + "F" * 8)
        assert lightest in screen.text

    use(still(fixed_view, plain=how == "plain"), (80, 24), look)


def test_with_16_colours_clusters_are_letters(use, fixed_view, monkeypatch):
    monkeypatch.delenv("COLORTERM")
    monkeypatch.setenv("TERM", "xterm")

    async def look(screen):
        await screen.press("5", "v")
        await screen.shows("A" * 8 + "D" * 8)

    use(still(fixed_view), (80, 24), look)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "Stage grow has no functional clusters (clustering.clusters = 0)"),
        (("stages.1.clustering={clusters=8}",), "8 clusters of neighbouring cells, as the stage began; no clustering by"),
        (("lattice.arm=identity",), "This run has no lattice (lattice.arm = identity)"),
        (GRU, "This run has no lattice (lattice.arm = gru)"),
    ],
    ids=["none", "as built", "identity", "gru"],
)
def test_without_a_clustering_the_panel_says_from_the_config_why(use, fixed_view, settings, said):
    async def look(screen):
        await screen.press("5")
        await screen.shows(said)
        assert "silhouette" not in screen.text and "activity 0" not in screen.text

    use(still(configured(fixed_view, *settings)), (100, 24), look)


def test_without_cells_the_panel_says_when_they_come_or_that_none_were_recorded(use, fixed_view):
    view = configured(fixed_view, "decode.every=25")

    async def live(screen):
        await screen.press("5")
        await screen.shows("when its cells are recorded: at each look of the decode", "every 25 steps")

    use(still(view), (100, 24), live)

    async def ended(screen):
        await screen.press("5")
        await screen.shows("This run recorded no cells to cut through.")

    use(still(replace(view, state="finished")), (100, 24), ended)


def test_cells_that_cannot_be_read_and_a_stage_without_labels_say_so(use, fixed_view):
    async def damaged(screen):
        await screen.press("5")
        await screen.shows("step-00000040.volume is damaged")

    use(still(replace(fixed_view, volume=Absent("step-00000040.volume is damaged"))), (100, 24), damaged)
    alone = replace(fixed_view.volume, fields=fixed_view.volume.fields[:1])

    async def unlabelled(screen):
        await screen.press("5", "v")
        await screen.shows("can't be coloured by cluster, the stage had no clusters (key v)")

    use(still(replace(fixed_view, volume=alone)), (100, 24), unlabelled)


def test_a_thinned_lattice_is_cut_by_its_own_coordinates(use, fixed_view):
    fields = (replace(fixed_view.volume.fields[0], values=bytes(60 * 60 * 50)),)
    big = Volume(40, 1, (60, 60, 50), (300, 300, 150), fields)

    async def look(screen):
        await screen.press("5")
        await screen.shows("y=150 (0..299)", "every 5x5x3th cell")

    use(still(replace(fixed_view, volume=big)), (80, 24), look)


# Cells of a real run


@pytest.fixture
def copied(recorded: RunFolder, tmp_path: Path) -> RunFolder:
    path = tmp_path / "copy"
    shutil.copytree(recorded.path, path, ignore=shutil.ignore_patterns("checkpoints"))
    return RunFolder(path)


def test_a_real_run_shows_the_cells_of_its_last_look_and_its_memory(use, recorded, runs_dir):
    async def look(screen):
        await screen.shows("step 20/20")
        await screen.press("5")
        await screen.shows("y=2 (0..5), activity 0..", "step 20", "no functional clusters")
        await screen.press("4")
        await screen.shows("torch        - (it counts GPU memory, the run is on cpu)", "measured", "at step 20")
        await screen.press("2")
        await screen.until(
            lambda: any(row.strip("│ ").split(" -> ")[0].strip().replace(".", "").isdigit() for row in screen.rows)
        )

    use(LatticeApp(runs_dir, recorded), (100, 30), look)


def test_going_back_in_time_shows_the_cells_of_that_time(copied):
    events = read_events(copied.events_jsonl).events
    for lines in range(0, len(events) + 1, 5):
        saved = fold(Snapshot(), events[:lines]).volume
        volume = volume_at(copied, saved)
        if saved is None:
            assert volume is None
        else:
            assert (volume.step, volume.shape) == (saved.step, saved.shape)


def test_the_reader_goes_to_the_cells_of_the_line_it_shows(copied):
    reader = Reader(copied, lambda message: None)
    assert reader.read_once().volume.step == 20
    events = read_events(copied.events_jsonl).events
    first = next(i for i, event in enumerate(events) if isinstance(event, VolumeSaved))
    reader.seek(first + 3)
    assert reader.read_once().volume.step == 5
    reader.seek(first)
    assert reader.read_once().volume is None


def test_cells_that_are_gone_give_place_to_the_nearest_earlier_ones_or_a_reason(copied):
    saved = fold(Snapshot(), read_events(copied.events_jsonl).events).volume
    (copied.volumes / "step-00000020.volume").unlink()
    assert volume_at(copied, saved).step == 15
    for name in ("step-00000005.volume", "step-00000010.volume"):
        (copied.volumes / name).unlink()
    early = saved.model_copy(update={"step": 10})
    assert "only the newest are kept: the oldest here are of step 15" in volume_at(copied, early).reason
    shutil.rmtree(copied.volumes)
    assert "is not in this folder any more" in volume_at(copied, saved).reason


def test_a_path_in_the_log_is_not_followed(copied):
    saved = fold(Snapshot(), read_events(copied.events_jsonl).events).volume
    assert volume_at(copied, saved.model_copy(update={"file": "../../secret"})).step == 20


def test_a_live_run_sends_its_cells_to_the_screen(use, live):
    async def look(screen):
        await screen.press("5")
        await screen.shows("activity 0..", "input left, output right")

    use(LatticeApp(live.path.parent, live), (100, 30), look)


# Plasticity


def test_plasticity_and_rewiring_are_told_in_numbers(use, lit_view):
    async def look(screen):
        await screen.press("6")
        await screen.shows("5% 5,000", "3% 3,000", "92% 92,000", "50% of cells, 25% of work skipped")
        await screen.shows("1.50e-04, messages by 2.30%", "theta       0 [0.1 0.2 0.3] 0.9 (quartiles)")
        await screen.shows("|----[====|=====]-----", "10 ms for 10 updates up to step 40")
        await screen.shows("20 pruned, 10 regrown, sparsity 70%, at step 40", "50 pruned, 20 regrown in this run")
        await screen.shows("2 .. 5 connections a cell, mean 3.9", "▁▂█▂")

    use(still(lit_view), (80, 24), look)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "Connections learn by gradient in this run; no plasticity is recorded."),
        (("connections.learning=frozen",), "as they were initialised (connections.learning = frozen); no plasticity"),
        (('stages.1.profile="freeze"',), "Connections stay as they are in this stage (profile freeze); no plasticity"),
        (("stages.1.waves=40",), "learn by gradient in this run, after the 40 discovery waves that begin this stage"),
        (("connections.learning=plastic",), "No plasticity is recorded yet in this stage (connections.learning = plastic)"),
        (("lattice.arm=identity",), "This run has no lattice, so no connections"),
        (GRU, "so no connections (lattice.arm = gru)"),
    ],
    ids=["gradient", "frozen", "freeze", "waves", "plastic", "identity", "gru"],
)
def test_without_plasticity_the_panel_says_from_the_config_why_and_shows_no_number(use, fixed_view, settings, said):
    async def look(screen):
        await screen.press("6")
        await screen.shows(said)
        assert "potentiated" not in screen.text and "%" not in screen.text.split("6 Plasticity")[1]

    use(still(configured(fixed_view, *settings)), (120, 24), look)


def test_a_new_stage_begins_without_the_numbers_of_the_last_and_keeps_the_runs_totals(use, lit_view):
    grown = StageStarted(
        time=lit_view.snapshot.last_time, step=40, stage=0, name="more", shape=(6, 6, 8), cells=288, ticks=6, kernel="k",
        plan_bytes=1, micro_batch=16, accumulation=1, carried=True,
    )  # fmt: skip

    async def look(screen):
        await screen.press("6")
        await screen.shows("no plasticity is recorded", "50 pruned, 20 regrown in this run")
        assert "potentiated" not in screen.text

    use(still(replace(lit_view, snapshot=fold(lit_view.snapshot, [grown]))), (80, 24), look)


def test_the_box_of_thresholds_marks_quartiles_and_is_nothing_where_all_are_equal():
    assert box((0.0, 1.0, 2.0, 3.0, 4.0), 9) == "|-[=|=]-|"
    assert box((1.0,) * 5, 9) == ""


# Scores of samples


def test_a_sample_shows_its_bleu_and_one_of_an_older_log_none():
    samples = Sample(source="a", reference="a b c", said="a b d", bleu=42.04), Sample(source="a", reference="e", said="e")
    look = Look(5, 1.0, 2.0, 0.0, 2, "s", False, 0.1, samples)
    assert [line.plain for line in look_lines(look, 60, plain=True)][1:] == [
        "  2/3    a b c",
        " 42.0 -> a b [d]",
        "  1/1    e",
        "      -> e",
    ]


ASKED = (
    Sample(source="north east", reference="hall", said="hall", bleu=0.0),
    Sample(source="south", reference="pantry", said="bath room", bleu=0.0),
    Sample(source="west", reference="pantry", said="", bleu=0.0),
)


def lines_of(look: Look, width: int, plain: bool = True) -> list[str]:
    return [line.plain.rstrip() for line in look_lines(look, width, plain)][1:]


def test_a_question_stands_above_the_right_answer_and_what_was_said():
    look = Look(5, 0.0, 2.0, 0.5, 2, "s", False, 0.1, ASKED, "exact", True)
    assert look_lines(look, 60, plain=True)[0].plain.startswith("-- step 5  exact 50.0%  chrF 2.0 -")
    assert lines_of(look, 60) == [
        "question north east",
        "   right hall     said + hall",
        "question south",
        "   right pantry   said x [bath] [room]",
        "question west",
        "   right pantry   said x (nothing)",
    ]
    assert lines_of(look, 60, plain=False)[3] == "   right pantry   said ✗ ‹bath› ‹room›"


def test_without_room_for_both_what_was_said_stands_under_the_right_answer():
    look = Look(5, 0.0, 2.0, 0.5, 2, "s", False, 0.1, ASKED, "exact", True)
    assert lines_of(look, 38)[3] == "   right pantry   said x [bath] [room]"
    assert lines_of(look, 37)[3:6] == ["question south", "   right pantry", "  said x [bath] [room]"]


def test_a_question_of_a_run_that_is_judged_by_bleu_stands_above_the_reference():
    samples = (Sample(source="a bx c", reference="a b c", said="a b d", bleu=42.0),)
    look = Look(5, 1.0, 2.0, 0.0, 1, "s", False, 0.1, samples, has_questions=True)
    assert lines_of(look, 60) == ["question a bx c", "  2/3    a b c", " 42.0 -> a b [d]"]


def test_answers_after_each_word_fill_the_width_and_are_marked_if_it_is_known_which_are_right():
    answers = (
        AfterWord(word="up", said="floor 3", right=True),
        AfterWord(word="down", said="floor 12", right=False),
        AfterWord(word="up", said="", right=None),
    )
    look = Look(5, 0.0, 2.0, 0.5, 0, "s", False, 0.1, (), "exact", True, answers)
    heading = "after each word, the answer if the sentence ended there"
    assert lines_of(look, 80) == [
        f"{heading}: 1 of 2 right",
        "         up   + floor 3     down x floor 12    up     (nothing)",
    ]
    assert lines_of(look, 44)[-2:] == ["         up   + floor 3     down x floor 12", "         up     (nothing)"]
    assert lines_of(look, 43)[-3:] == [
        "         up   + floor 3",
        "         down x floor 12",
        "         up     (nothing)",
    ]
    unmarked = replace(look, after_each_word=tuple(a.model_copy(update={"right": None}) for a in answers))
    assert lines_of(unmarked, 80)[0] == heading and "floor 3" in lines_of(unmarked, 80)[1]


# Drawing


def test_a_layer_is_enlarged_by_whole_cells_or_thinned_to_fit():
    rows = [bytes([0, 1, 2]), bytes([3, 4, 5])]
    assert slices.scaled(rows, 7, 5) == [bytes([0, 0, 1, 1, 2, 2])] * 2 + [bytes([3, 3, 4, 4, 5, 5])] * 2
    assert slices.scaled(rows, 3, 2) == rows
    thinned = slices.scaled([bytes(range(64))] * 64, 20, 10)
    assert len(thinned) == 10 and all(len(row) == 10 for row in thinned) and list(thinned[0])[:3] == [0, 6, 12]
    assert slices.scaled([bytes(100)], 10, 10) == [bytes(10)]


@pytest.mark.parametrize(("across", "down"), [(80, 20), (30, 6), (9, 3), (1, 1)])
@pytest.mark.parametrize("shape", [(6, 8), (64, 64), (1, 64), (64, 1), (7, 3)], ids=str)
def test_a_drawn_layer_keeps_within_its_room(across, down, shape):
    rows = [bytes(range(shape[1]))] * shape[0]
    coloured = slices.blocks(rows, across, down, slices.activity_colour)
    signed = slices.signs(rows, max(2, across), down, slices.cluster_sign)
    for lines, width in ((coloured, across), (signed, max(2, across))):
        assert 1 <= len(lines) <= down and all(1 <= len(line.plain) <= width for line in lines)


def test_half_blocks_carry_the_cell_above_and_the_cell_below():
    line = slices.blocks([b"\x00", b"\xff", b"\x07"], 1, 2, lambda byte: f"#0000{byte:02x}")
    assert [(text.plain, str(text.spans[0].style)) for text in line] == [("▀", "#000000 on #0000ff"), ("▀", "#000007")]


def test_activity_gets_brighter_all_the_way_so_that_greys_tell_it_too():
    def brightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    seen = [brightness(slices.activity_colour(byte)) for byte in range(256)]
    assert seen == sorted(seen) and len(set(seen)) == slices.LEVELS
    ramps = "".join(slices.activity_sign(byte, True) for byte in range(256))
    assert [ramps.index(sign) for sign in slices.ASCII_RAMP] == sorted(ramps.index(sign) for sign in slices.ASCII_RAMP)


def test_every_label_of_a_byte_has_a_sign_and_neighbours_differ_in_colour():
    assert all(slices.cluster_sign(label).isalnum() for label in range(256))
    assert len({slices.cluster_colour(label) for label in range(24)}) == 24


def test_sparks_show_the_highest_of_neighbours_and_a_blank_only_for_nothing():
    assert spark((9, 0, 1, 9), 4, plain=False) == "█ ▁█"
    assert spark((1, 2, 3, 9), 2, plain=True) == ":@"
    assert spark((0, 0), 5, plain=False) == spark((), 5, plain=False) == ""
