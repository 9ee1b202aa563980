"""Reading in time: slot after slot drives the whole face, and each is read `lag` ticks later."""

from __future__ import annotations

import itertools

import pytest
import torch

from lattice.data.tokenizer import pad
from lattice.kernels import Functional, TickOptions, choose, propagate
from lattice.kernels.kernel import RuleNumbers
from lattice.kernels.sparse import Pattern
from lattice.model.lattice3d import initial_cells
from lattice.model.text_lattice import TextLattice
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.training import changes, checkpoint
from lattice.training.checkpointer import Checkpointer
from monitors.events import Decoded, Plastic, Trained
from presets.layers import ConfigError, load
from presets.rule_size import rule_size
from presets.topology import Topology
from tests.lattice.conftest import StopAt

CPU = torch.device("cpu")
TIME = (
    "text.reading=time", "text.lag=4", "lattice.channels=6", "lattice.port_channels=4", "lattice.memory_ticks=4",
    "lattice.norm_epsilon=1.0", "stages.0.ticks=8", "stages.1.ticks=8", "stages.0.strides.z=[3]", "stages.1.strides.z=[3]",
)  # fmt: skip


# Ticks


def run(kernel: str, topology: Topology, pattern: Pattern | None, segment: int, functional: bool, hidden: int | None):
    """Faces, and the gradients of drive, weights, cells and more, from numbers that are always the same."""
    stream = torch.Generator().manual_seed(3)
    (x, y, z), channels, drives, ticks = topology.shape, 5, 4, 7
    drive = torch.randn(drives, 2, x, y, channels, generator=stream).requires_grad_()
    weights = torch.randn(len(topology.offsets), x, y, z, generator=stream) * 0.3
    weights = (weights if pattern is None else pattern.take(weights)).requires_grad_()
    cells = (torch.randn(6, x, y, channels, z, generator=stream) * 0.5).requires_grad_()
    gain = torch.randn(x, y, channels, z, generator=stream).requires_grad_()
    tier = Functional(gain, torch.arange(x * y * z).view(x, y, z) % 3, 3) if functional else None
    numbers = (torch.randn(rule_size(channels, hidden), generator=stream) * 0.3).requires_grad_()
    rule = None if hidden is None else RuleNumbers(numbers, hidden)
    chosen, _ = choose(kernel, topology, channels, CPU, torch.float32, hidden)
    options = TickOptions(segment=segment, face=True, read_from=2, epsilon=1.0)
    faces = propagate(drive, weights, cells, topology, ticks, chosen, tier, pattern, options, rule)
    (faces * torch.randn(faces.shape, generator=stream)).sum().backward()
    return faces.detach(), drive.grad, weights.grad, cells.grad, gain.grad, numbers.grad


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize(
    ("kernel", "sparse", "segment", "functional", "hidden"),
    [
        ("native", False, 0, False, None),
        ("native", True, 3, False, None),
        ("native", False, 3, True, None),
        ("native", True, 3, False, 6),
        ("native", False, 0, True, 0),
        ("compiled", False, 3, False, None),
        ("compiled", False, 0, True, None),
    ],
)
def test_faces_and_gradients_are_those_of_the_reference(kernel, boundary, sparse, segment, functional, hidden):
    topology = Topology((4, 3, 20), ((), (2,), (3,)), boundary)
    pattern = None
    if sparse:
        order = torch.rand(len(topology.offsets), 4, 3, 2, generator=torch.Generator().manual_seed(5)).argsort(0)
        pattern = Pattern(order[:9].to(torch.uint8).contiguous(), len(topology.offsets))
    found = run(kernel, topology, pattern, segment, functional, hidden)
    wanted = run("reference", topology, pattern, 0, functional, hidden)
    assert found[0].shape == (5, 2, 4, 3, 5)
    for one, other in zip(found, wanted, strict=True):
        if other is not None:
            assert other.abs().max() > 0 and torch.allclose(one, other, atol=2e-5 * float(other.abs().max()))


def test_the_same_drive_at_every_tick_is_the_drive_of_all_ticks():
    topology = Topology((3, 3, 4))
    stream = torch.Generator().manual_seed(1)
    drive = torch.randn(2, 3, 3, 5, generator=stream)
    weights, cells = torch.randn(26, 3, 3, 4, generator=stream), torch.randn(6, 3, 3, 5, 4, generator=stream)
    kernel, _ = choose("native", topology, 5, CPU, torch.float32)
    once = propagate(drive, weights, cells, topology, 6, kernel)
    assert torch.equal(once, propagate(drive.expand(6, *drive.shape), weights, cells, topology, 6, kernel))


def test_drives_and_reads_that_do_not_fit_the_ticks_are_refused():
    topology = Topology((3, 3, 4))
    weights, cells = torch.zeros(26, 3, 3, 4), torch.zeros(6, 3, 3, 5, 4)
    with pytest.raises(ValueError, match="drive: shape"):
        propagate(torch.zeros(4, 2, 3, 3, 5), weights, cells, topology, 3)
    for options in (TickOptions(face=True, read_from=3), TickOptions(read_from=1)):
        with pytest.raises(ValueError, match="read_from"):
            propagate(torch.zeros(2, 3, 3, 5), weights, cells, topology, 3, options=options)


# The model


@pytest.fixture(scope="module")
def model(config_of, tokenizer) -> TextLattice:
    return TextLattice(config_of(*TIME), 0, tokenizer.vocabulary, CPU)


def sentences(count: int) -> list[list[int]]:
    """Token rows of many lengths."""
    stream = torch.Generator().manual_seed(4)
    return [torch.randint(3, 200, (2 + 5 * i,), generator=stream).tolist() for i in range(count)]


def test_a_sentence_alone_and_in_a_batch_gives_the_same_answer(model):
    rows = sentences(8)
    together, slots = model.say(pad(rows)), model.slots(pad(rows))
    for i, row in enumerate(rows):
        alone = pad([row])
        assert torch.allclose(model.slots(alone)[0], slots[i], atol=1e-5)
        said = model.say(alone)[0]
        assert torch.equal(said[said != 0], together[i][together[i] != 0])


FROM_THE_END = ("text.positions=end", "text.encoder_layers=0")


@pytest.mark.parametrize(
    "more", [FROM_THE_END, FROM_THE_END[:1], ("text.encoder_layers=0",), (*FROM_THE_END, "lattice.arm=identity")]
)
def test_places_from_the_end_and_an_encoder_without_layers_answer_alone_as_in_a_batch(more, config_of, tokenizer):
    model, rows = TextLattice(config_of(*TIME, *more), 0, tokenizer.vocabulary, CPU), sentences(8)
    together = model.say(pad(rows))
    for i, row in enumerate(rows):
        said = model.say(pad([row]))[0]
        assert torch.equal(said[said != 0], together[i][together[i] != 0])


def test_an_encoder_without_layers_makes_equal_slots_of_equal_words_if_places_count_from_the_end(config_of, tokenizer):
    width = TextLattice(config_of(*TIME), 0, tokenizer.vocabulary, CPU).encoder.tokens_per_slot
    words = pad([[5] * width * 2 + [6] * width])
    for more, same in ((FROM_THE_END, True), (FROM_THE_END[:1], False), (FROM_THE_END[1:], False)):
        slots = TextLattice(config_of(*TIME, *more), 0, tokenizer.vocabulary, CPU).encoder(words)[0]
        assert torch.allclose(slots[0], slots[1], atol=1e-6) is same
        assert not torch.allclose(slots[1], slots[2], atol=1e-3)


def test_the_decoder_tells_the_last_slot_by_its_place_whatever_the_length(config_of, tokenizer):
    decoder = TextLattice(config_of(*TIME, *FROM_THE_END), 0, tokenizer.vocabulary, CPU).decoder
    slots = torch.zeros(2, 4, decoder.slot_position.shape[1])
    there = torch.tensor([[True, True, False, False], [True, True, True, True]])
    places = decoder._context(slots, there)
    assert torch.equal(places[0, 1], places[1, 3]) and torch.equal(places[0, 0], places[1, 2])
    assert not torch.equal(places[1, 0], places[1, 2])


def test_places_from_the_end_are_refused_if_all_slots_are_read_at_once():
    with pytest.raises(ConfigError, match="positions: end is for reading = time"):
        load("baseline", None, ["text.positions=end"])


def test_a_slot_is_read_after_its_lag_and_slots_that_come_later_can_not_change_it(model):
    slots = torch.randn(1, 4, model.encoder.to_slot.out_features, generator=torch.Generator().manual_seed(2))
    there = torch.ones(1, 4, dtype=torch.bool)

    def read(given: torch.Tensor) -> torch.Tensor:
        return model.lattice.read_in_time(model._drive(given, there), 4)

    before, later = read(slots), slots.clone()
    later[:, 3] += 1.0
    changed = (read(later) - before).abs().flatten(1).amax(1)
    # Slot 3 drives tick 3 and is at the output face after tick 5 at the earliest: three hops, with strides of 3 and 1.
    assert changed[:1].eq(0).all() and changed[-1] > 0


def test_no_tick_is_run_for_slots_that_no_sentence_of_the_batch_has(model, monkeypatch):
    seen = []
    honest = model.lattice.read_in_time
    monkeypatch.setattr(model.lattice, "read_in_time", lambda drives, *rest: seen.append(len(drives)) or honest(drives, *rest))
    for row in ([5] * 3, [5] * 25, [5] * 40):
        model.slots(pad([row]))
    assert seen == [1, 3, 4]


def test_the_controls_cut_what_goes_through_the_lattice(model):
    rows = pad(sentences(3))
    slots = model.slots(rows)
    cut = model.slots(rows, "bypass")
    # All sentences have a first slot.  Without messages its face is the same for all of them.
    assert torch.allclose(cut[:, 0], cut[:1, 0].expand_as(cut[:, 0])) and not torch.allclose(slots[0, 0], slots[1, 0])
    assert torch.allclose(model.slots(rows, "shuffled"), slots.roll(1, 0), atol=1e-5)
    assert torch.equal(model.there(rows, "shuffled"), model.there(rows).roll(1, 0))


def test_ports_leave_the_other_channels_alone_which_start_with_a_spread_of_time_constants(model):
    drive = model._drive(torch.randn(2, 4, 32), torch.ones(2, 4, dtype=torch.bool))
    assert drive[..., 4:].eq(0).all() and drive[..., :4].ne(0).any()
    gates = model.lattice.cells[2].mean((0, 1, 3))  # c_z per channel; its noise is small
    assert gates[:4].abs().max() < 0.05 and gates[4:].max() < -0.1 and gates.min() > -torch.log(torch.tensor(4.0)) - 0.05


DELAY_LINE = ("connections.noise=0.1", "connections.bias_local=1.0", "connections.bias_distant=0.0")


def test_port_channels_that_pass_take_their_message_and_no_other_channel_starts_otherwise(config_of, tokenizer):
    plain, passing = (
        TextLattice(config_of(*TIME, f"lattice.port_start={start}"), 0, tokenizer.vocabulary, CPU).lattice.cells
        for start in ("blend", "pass")
    )
    change = (passing - plain).detach()
    wanted = torch.tensor([0.0, 0.0, 4.0, -0.5, 0.75, 0.0])[:, None, None, None, None]  # a_z, b_z, c_z, a_h, b_h, c_h
    assert torch.allclose(change[:, :, :, :4], wanted.expand_as(change[:, :, :, :4]), atol=1e-6)
    assert change[:, :, :, 4:].eq(0).all()


def test_a_lattice_without_memory_channels_can_pass_with_all_of_them():
    cells = initial_cells((2, 2, 3), 5, torch.Generator().manual_seed(0), ports_pass=True)
    gate, keep, take = (cells[i].mean((0, 1, 3)) for i in (2, 3, 4))
    assert gate.sub(4).abs().max() < 0.05 and keep.abs().max() < 0.05 and take.sub(1).abs().max() < 0.05


def test_a_fresh_lattice_that_passes_hands_each_slot_to_its_own_reading(config_of, tokenizer):
    slots = torch.randn(64, 4, 32, generator=torch.Generator().manual_seed(6))
    there = torch.ones(64, 4, dtype=torch.bool)

    def likeness(start: str) -> torch.Tensor:
        """The mean cosine [4, 4] of each reading with each slot given."""
        model = TextLattice(config_of(*TIME, *DELAY_LINE, f"lattice.port_start={start}"), 0, tokenizer.vocabulary, CPU)
        with torch.no_grad():
            faces = model.lattice.read_in_time(model._drive(slots, there), 4)
            read = model.output_port.read(faces[..., :4].flatten(0, 1)).view(4, 64, 32).transpose(0, 1)
        read = read - read.mean(0)
        return torch.einsum("bjd,bkd->bjk", *(x / x.norm(dim=-1, keepdim=True) for x in (read, slots))).mean(0)

    passed, blended = likeness("pass"), likeness("blend")
    assert passed.diagonal().min() > 0.7
    assert (passed - torch.diag(passed.diagonal())).abs().max() < 0.3
    assert blended.diagonal().min() < 0.5


def test_a_shared_rule_moves_the_channels_that_no_port_touches_from_the_start(config_of, tokenizer):
    rule = TextLattice(config_of(*TIME, "rule.kind=mlp"), 0, tokenizer.vocabulary, CPU).lattice.rule
    moved = rule.second.ne(0).any(1)  # of u_z and u_h of 6 channels, the last 2 of which are free
    assert moved.tolist() == [False] * 10 + [True] * 2


# Training


def test_a_run_that_reads_in_time_learns_grows_decodes_and_resumes_exactly(bench, tmp_path):
    whole = bench(*TIME, callbacks=[DecodeMonitor()])
    assert whole.trainer.run() == "finished"
    losses = {event.step: event.loss for event in whole.heard.of(Trained)}
    assert losses[12] < losses[1] and len(whole.heard.of(Decoded)) > 0
    first = bench(*TIME, callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "data"), StopAt(9)])
    assert first.trainer.run() == "stopped"
    saved, _ = checkpoint.load_newest(tmp_path)
    second = bench(*TIME, callbacks=[DecodeMonitor()])
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    assert second.trainer.run() == "finished"
    assert {event.step: event.loss for event in second.heard.of(Trained)} == {step: losses[step] for step in (10, 11, 12)}


@pytest.mark.parametrize(
    "settings",
    [
        ("connections.learning=hybrid", "stages.0.waves=2"),
        ("stages.0.sparsity=0.5", "stages.0.rewiring.regrow=activity", "stages.0.rewiring.every=2"),
        ("stages.0.clustering.clusters=3", "stages.0.clustering.every=2", "stages.1.clustering.clusters=3"),
        ("training.checkpoint_ticks=2", "training.micro_batch=4"),
        ("run.precision=bf16",),
        ("run.kernel=reference",),
        ("rule.kind=mlp", "rule.hidden=8", "training.checkpoint_ticks=2"),
        ("lattice.arm=identity",),
    ],
    ids=["plastic", "rewired", "clustered", "in segments", "bf16", "reference", "shared rule", "identity"],
)
def test_all_that_holds_for_faces_holds_in_time(bench, settings):
    run = bench(*TIME, *settings, callbacks=[DecodeMonitor()])
    assert run.trainer.run() == "finished"
    losses = [event.loss for event in run.heard.of(Trained)]
    assert losses[-1] < losses[0]
    assert all(event.active_share is not None for event in run.heard.of(Plastic))


def test_micro_batches_give_the_gradients_of_the_whole_batch(bench):
    found = []
    for size in (16, 4):
        run = bench(*TIME, f"training.micro_batch={size}", "stages.0.steps=1")
        run.trainer.step(list(range(16)))
        found.append(run.trainer.state.model.state_dict())
    for name in found[0]:
        assert torch.allclose(found[0][name], found[1][name], atol=1e-4), name


# Settings

DEEP = ("stages.1.shape=[6, 6, 11]", "stages.1.strides.z=[]", "stages.1.ticks=10")
"""The second stage needs a longer lag than the first."""

DEEPER = ("stages.1.shape=[6, 6, 201]", "stages.1.strides.z=[]", "stages.1.ticks=200")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("text.lag=3",), "text.lag: does nothing with text.reading = face"),
        (("text.reading=time",), "text.lag: reading in time needs one; "),
        (
            (*TIME, "text.lag=3", "stages.0.ticks=7", "stages.1.ticks=7"),
            "text.lag: 3 is too short, only 75% of stage 1's cells lie on a path from input to output; 4 would do, with 8",
        ),
        ((*TIME, "stages.1.ticks=9"), "stages.1.ticks: 4 slots that are read 4 ticks after they enter take 8 ticks, not 9"),
        (("text.reading=time", *DEEP), "needs one; 9 would do, with 13 ticks in every stage (stages.N.ticks)"),
        ((*TIME, *DEEP), "only 0% of stage 1's cells lie on a path from input to output; 9 would do, with 13 ticks in every"),
        (
            (*TIME, "text.grid=16", "text.slot_width=4"),
            "text.grid: 256 slots and a lag of 4 take 260 ticks, and at most 256 are",
        ),
        (("text.reading=time", *DEEPER), "199 would do, and at most 128 is accepted, so use longer strides.z"),
        (("lattice.port_channels=13",), "lattice.port_channels: 13 channels can't be driven and read, a cell has 12"),
        (("lattice.memory_ticks=4",), "lattice.memory_ticks: 4 is for channels that no port drives, and there are none"),
    ],
)
def test_settings_that_can_not_be_are_refused_with_what_would_do(settings, problem):
    with pytest.raises(ConfigError) as refused:
        load("tiny", None, list(settings))
    assert problem in str(refused.value)


def test_in_time_a_face_may_be_smaller_than_the_grid():
    small = [*TIME, *itertools.chain.from_iterable((f"stages.{i}.shape=[1, 1, 4]",) for i in (0, 1))]
    assert load("tiny", None, small).config.stages[0].shape == (1, 1, 4)
