"""Cells that update by chance, and wounds: the hash, what it decides, and ticks and gradients against the reference."""

from __future__ import annotations

import pytest
import torch

from lattice.kernels import Functional, TickOptions, choose, propagate
from lattice.kernels.chance import GOLDEN, Chance, Updates, Wounds, mixed, wound_columns
from lattice.kernels.kernel import RuleNumbers
from lattice.kernels.sparse import Pattern
from presets.rule_size import rule_size
from presets.topology import Topology

CPU = torch.device("cpu")
TOPOLOGY = Topology((4, 5, 19), ((2,), (), (5,)))
BATCH, CHANNELS, TICKS, DRIVES = 3, 4, 7, 5
HURT = Chance(key=2**63 + 11, first=5, update_probability=0.5, wounds=1.0, wound_size=0.3)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Diary:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []

    def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
        self.states.append(state.detach().clone())

    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        self.gradients.append(grad.clone())


def run(kernel: str, chance: Chance, segment: int = 0, time: bool = False, sparse: bool = False, clustered: bool = False,
        hidden: int | None = None, dtype: torch.dtype = torch.float32, device: torch.device = CPU,
        observer: Diary | None = None) -> list[torch.Tensor]:  # fmt: skip
    """What comes out, and the gradients of drive, weights, cells, gain and rule, from numbers that are always the same."""
    (x, y, z), offsets = TOPOLOGY.shape, len(TOPOLOGY.offsets)
    pattern, dense = None, 0.3 * draw(offsets, x, y, z, seed=1)
    if sparse:
        drawn = torch.rand(offsets, x, y, 2, generator=torch.Generator().manual_seed(5))
        pattern = Pattern(drawn.argsort(0)[:9].to(torch.uint8).contiguous().to(device), offsets)
    weights = (dense.to(device) if pattern is None else pattern.take(dense.to(device))).requires_grad_()
    cells = (0.7 * draw(6, x, y, CHANNELS, z, seed=2)).to(device).requires_grad_()
    drive = draw(*((DRIVES,) if time else ()), BATCH, x, y, CHANNELS, seed=3).to(device, dtype).requires_grad_()
    gain = draw(x, y, CHANNELS, z, seed=4).to(device).requires_grad_()
    labels = torch.randint(3, TOPOLOGY.shape, generator=torch.Generator().manual_seed(6)).to(device)
    tier = Functional(gain, labels, 3) if clustered else None
    numbers = (0.3 * draw(rule_size(CHANNELS, hidden), seed=7)).to(device).requires_grad_()
    rule = None if hidden is None else RuleNumbers(numbers, hidden)
    chosen, _ = choose(kernel, TOPOLOGY, CHANNELS, device, dtype, hidden)
    options = TickOptions(observer, segment, time, 1 if time else None, chance=chance)
    out = propagate(drive, weights, cells, TOPOLOGY, TICKS, chosen, tier, pattern, options, rule)
    (out.float() * draw(*out.shape, seed=8).to(device)).sum().backward()
    leaves = [drive, weights, cells, *([gain] if clustered else []), *([numbers] if rule else [])]
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def assert_alike(found: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float = 2e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


# The hash


def test_numbers_are_those_of_splitmix64():
    """The first outputs of the published generator from the seed 0."""
    wanted = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC)
    steps = torch.arange(1, 5) * (GOLDEN - 2**64)
    assert [number % 2**64 for number in mixed(steps).tolist()] == list(wanted)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_cells_update_whatever_cells_sentences_ticks_and_steps_are_looked_at(share):
    masks = torch.stack([
        torch.stack([Updates(Chance(key, 0, share), 16, (8, 8, 8), CPU).cells(tick) for tick in range(8)]) for key in range(8)
    ]).squeeze(5).float()  # fmt: skip
    assert masks.shape == (8, 8, 16, 8, 8, 8)
    for axes in ((1, 2, 3, 4, 5), (0, 2, 3, 4, 5), (0, 1, 3, 4, 5), (0, 1, 2)):
        means = masks.mean(axes)
        deviation = (share * (1 - share) * means.numel() / masks.numel()) ** 0.5
        assert (means - share).abs().max() < 5 * deviation
    # Nor do two of them go together: 128 masks of 4096 cells, each against each.
    rows = (masks[0].flatten(0, 1) - share).flatten(1) / (share * (1 - share)) ** 0.5
    together = (rows @ rows.T / rows.shape[1]).fill_diagonal_(0.0)
    assert together.abs().max() < 5.5 / rows.shape[1] ** 0.5


def test_a_sentence_meets_the_same_chance_in_any_part_of_its_batch():
    whole, part = (Updates(Chance(7, first, 0.5), count, (3, 4, 5), CPU) for first, count in ((0, 8), (5, 2)))
    assert torch.equal(whole.cells(3)[5:7], part.cells(3))
    whole, part = (Wounds(Chance(7, first, wounds=0.7), count, (6, 6), 9) for first, count in ((0, 8), (5, 2)))
    both = [(whole.columns(tick, 8, (6, 6)), part.columns(tick, 2, (6, 6))) for tick in range(9)]
    nothing = torch.zeros(8, 6, 6, dtype=torch.bool)
    found = [(nothing if a is None else a, nothing[:2] if b is None else b) for a, b in both]
    assert all(torch.equal(a[5:7], b) for a, b in found) and any(b.any() for _, b in found)


# What it decides


@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_input_enters_cells_that_do_not_update(kernel):
    """With hardly any update, each drive adds up on the face, and nothing leaves it."""
    diary = Diary()
    run(kernel, Chance(update_probability=1e-15), time=True, observer=diary)
    drives = draw(DRIVES, BATCH, 4, 5, CHANNELS, seed=3)
    for tick, state in enumerate(diary.states[:TICKS]):
        torch.testing.assert_close(state[..., 0], drives[: tick + 1].sum(0))
        assert state[..., 1:].eq(0).all()


@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_cells_that_update_are_those_of_the_hash_and_the_others_keep_their_state(kernel):
    diary = Diary()
    chance = Chance(3, 1, update_probability=0.4)
    run(kernel, chance, time=True, observer=diary)
    updates = Updates(chance, BATCH, TOPOLOGY.shape, CPU)
    for tick in range(DRIVES, TICKS):  # no drive changes these states
        kept = (diary.states[tick + 1] == diary.states[tick]).all(3, keepdim=True)
        assert torch.equal(kept, ~updates.cells(tick))


@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_a_wound_silences_a_block_of_columns_but_for_the_drive_of_its_tick(kernel):
    diary, chance = Diary(), Chance(1, wounds=1.0, wound_size=0.3)
    run(kernel, chance, time=True, observer=diary)
    drives, seen = draw(DRIVES, BATCH, 4, 5, CHANNELS, seed=3), torch.zeros(BATCH)
    wounds = Wounds(chance, BATCH, (4, 5), TICKS)
    for tick, state in enumerate(diary.states[:TICKS]):
        hit = wounds.columns(tick, BATCH, (4, 5))
        if hit is None:
            continue
        seen += hit.flatten(1).any(1)
        assert hit.sum((1, 2)).tolist() == [6 * int(any_hit) for any_hit in hit.flatten(1).any(1)]  # 0.3 of 20 columns
        assert state[hit][..., 1:].eq(0).all() and state[~hit][..., 1:].ne(0).all(1).any()
        assert torch.equal(state[hit][..., 0], drives[tick][hit] if tick < DRIVES else torch.zeros_like(state[hit][..., 0]))
    assert seen.tolist() == [1.0] * BATCH


def test_so_many_sentences_are_wounded_each_once_before_one_of_its_own_ticks_and_anywhere():
    count, own = 4000, torch.arange(4000) % 7 + 1
    wounds = Wounds(Chance(9, wounds=0.3, wound_size=0.25, ticks=own), count, (4, 6), 50)
    hit = torch.zeros(50, count, 4, 6)
    for tick in range(50):
        if (columns := wounds.columns(tick, count, (4, 6))) is not None:
            hit[tick] = columns.float()
    when = hit.flatten(2).any(2)
    assert when.sum(0).max() == 1 and not when[:, own == 1].any()
    assert when[:, own > 1].any(0).float().mean() == pytest.approx(0.3, abs=0.025)
    for ticks in range(2, 8):
        counts = when[:, own == ticks].sum(1)
        assert counts[0] == 0 and counts[ticks:].eq(0).all() and counts[1:ticks].min() > 0.5 * counts.sum() / (ticks - 1)
    assert set(hit.sum((0, 2, 3)).tolist()) == {0.0, 6.0}
    everywhere = hit.sum((0, 1))
    assert everywhere.min() > 0 and everywhere[0, 0] < everywhere[1, 2]  # a corner lies in one place, the middle in many


@pytest.mark.parametrize(
    ("size", "face", "columns"),
    [(1 / 16, (4, 4), 1), (1 / 8, (4, 4), 2), (1 / 4, (4, 4), 4), (1 / 2, (4, 4), 8), (1.0, (5, 7), 35), (1e-6, (9, 9), 1)],
)
def test_a_wound_takes_its_share_of_the_face_as_a_rectangle(size, face, columns):
    along_x, along_y = wound_columns(size, *face)
    assert along_x * along_y == columns and along_x <= face[0] and along_y <= face[1]


def test_a_wound_has_the_shape_of_the_face():
    assert (wound_columns(0.25, 4, 4), wound_columns(0.25, 16, 8), wound_columns(0.25, 50, 50)) == ((2, 2), (8, 4), (25, 25))


# Ticks and gradients


CASES = {
    "plain": {},
    "in time": {"time": True},
    "clusters and pruned": {"clustered": True, "sparse": True},
    "in time, clusters, mlp rule": {"time": True, "clustered": True, "hidden": 6},
    "pruned, linear rule": {"sparse": True, "hidden": 0},
}


@pytest.mark.parametrize("segment", [0, 3])
@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_the_native_kernel_has_the_states_and_gradients_of_the_reference(how, segment):
    mine, theirs = Diary(), Diary()
    assert_alike(run("native", HURT, segment, observer=mine, **how), run("reference", HURT, observer=theirs, **how))
    for found, wanted in ((mine.states, theirs.states), (mine.gradients, theirs.gradients)):
        assert_alike(found, wanted)


@pytest.mark.parametrize("chance", [Chance(4, update_probability=0.5), Chance(4, wounds=1.0)], ids=["updates", "wounds"])
def test_each_alone_has_the_gradients_of_the_reference(chance):
    assert_alike(run("native", chance, 2, time=True), run("reference", chance, time=True))


def test_the_compiled_kernel_does_too():
    assert_alike(run("compiled", HURT, 3, time=True), run("reference", HURT, time=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_triton_kernel_does_too():
    device = torch.device("cuda")
    wanted = run("reference", HURT, time=True)
    assert_alike([tensor.cpu() for tensor in run("triton", HURT, 3, time=True, device=device)], wanted, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_segments_give_the_same_bits(how, dtype):
    whole, parts = (run("native", HURT, segment, dtype=dtype, **how) for segment in (0, 3))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_no_gradient_passes_through_a_wound(kernel):
    """A wound of the whole face: what was driven before it is lost, and what is driven from its tick on is not."""
    chance = Chance(2, update_probability=0.9, wounds=1.0, wound_size=1.0)
    wounds = Wounds(chance, BATCH, (4, 5), TICKS)
    when = [tick for s in range(BATCH) for tick in range(TICKS)
            if (hit := wounds.columns(tick, BATCH, (4, 5))) is not None and hit[s].all()]  # fmt: skip
    assert len(when) == BATCH and max(when) > 1
    # Only what comes out at the end counts: faces are read after every tick, and those before the wound have gradients.
    (x, y, z) = TOPOLOGY.shape
    drive = draw(TICKS, BATCH, x, y, CHANNELS, seed=3).requires_grad_()
    weights, cells = 0.3 * draw(len(TOPOLOGY.offsets), x, y, z, seed=1), draw(6, x, y, CHANNELS, z, seed=2)
    chosen, _ = choose(kernel, TOPOLOGY, CHANNELS, CPU, torch.float32)
    propagate(drive, weights, cells, TOPOLOGY, TICKS, chosen, options=TickOptions(chance=chance)).sum().backward()
    for sentence, tick in enumerate(when):
        assert drive.grad[:tick, sentence].eq(0).all() and drive.grad[tick:, sentence].ne(0).any(-1).all()


def test_a_face_is_read_before_the_wound_of_the_next_tick():
    """On a lattice of one layer, too, where a state and its face may share memory."""
    flat, chance = Topology((4, 4, 1)), Chance(5, wounds=1.0, wound_size=1.0)
    drive, weights = draw(1, 2, 4, 4, CHANNELS, seed=3), draw(len(flat.offsets), 4, 4, 1, seed=1)
    cells = draw(6, 4, 4, CHANNELS, 1, seed=2)
    faces = [
        propagate(drive, weights, cells, flat, 6, choose(kernel, flat, CHANNELS, CPU, torch.float32)[0],
                  options=TickOptions(face=True, read_from=0, chance=chance))
        for kernel in ("native", "reference")
    ]  # fmt: skip
    assert_alike(faces[:1], faces[1:])


@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_if_nothing_is_left_to_chance_nothing_is_hashed_and_the_bits_are_the_same(kernel, monkeypatch):
    plain = run(kernel, Chance(), time=True)
    monkeypatch.setattr("lattice.kernels.chance.mixed", None)
    other = run(kernel, Chance(99, 4, ticks=torch.tensor([3, 4, 5])), time=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
