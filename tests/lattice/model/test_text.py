"""Tests of the way of a text: tokenizer, encoder, decoder, and the ports between slots and the faces of the lattice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models

from lattice.data.special_tokens import BEGIN, END, PAD
from lattice.data.tokenizer import SPECIAL, Tokenizer, pad
from lattice.model.coder import Decoder, Encoder
from lattice.model.ports import CONTROL, interpolation, transposed_ports
from presets.layers import load
from presets.text_section import MAX_SLOT_NUMBERS

WORDS = ["The cat sat on the mat.", "The dog ran to the cat.", "Кошка сидит на окне.", "猫が窓に座る。"] * 3
VOCABULARY = 320


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(WORDS, VOCABULARY)


def said_back(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(pad(tokenizer.encode([text]), end=True))[0]


# Tokenizer


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(text=st.text(max_size=60))
@example(text="Съешь же ещё этих мягких французских булок, да выпей чаю")
@example(text="family 👨‍👩‍👧‍👦, flag 🇫🇮, thumbs 👍🏽")
@example(text="天地玄黄 宇宙洪荒 ㍿ 한글")
@example(text="e\u0301 is not \u00e9, and \ufeff is not nothing")
@example(text="<pad><begin> <end>")
@example(text="a\x00b\x7f")
def test_any_text_comes_back_with_its_spacing_normalised(small, text):
    text = " ".join(text.split())
    assert said_back(small, text) == text


@pytest.mark.parametrize("kept", [False, True], ids=["trained", "from_json"])
@pytest.mark.parametrize("special", SPECIAL)
def test_special_tokens_in_a_sentence_are_plain_characters(small, special, kept):
    tokenizer = Tokenizer.from_json(small.to_json()) if kept else small
    for text in (special, f"x{special} y", f"a {special} {special} b"):
        (tokens,) = tokenizer.encode([text])
        assert not {PAD, BEGIN, END} & set(tokens)
        assert said_back(tokenizer, text) == text


def test_special_tokens_in_the_corpus_keep_their_ids_and_stay_out_of_the_text():
    tokenizer = Tokenizer.train([f"{name} {name}" for name in SPECIAL] * 50, VOCABULARY)
    assert not {PAD, BEGIN, END} & set(tokenizer.encode(["<pad> <end>"])[0])
    assert said_back(tokenizer, "<pad> <end>") == "<pad> <end>"


def test_special_token_ids_are_dropped_from_decoded_text(small):
    (tokens,) = small.encode(["The cat"])
    assert small.decode(torch.tensor([[BEGIN, *tokens, END, PAD, PAD]])) == ["The cat"]


def test_the_vocabulary_keeps_to_its_limit_and_learns_more_than_bytes(small):
    assert small.vocabulary == VOCABULARY
    (tokens,) = small.encode(["The cat sat on the mat."])
    assert len(tokens) < len("The cat sat on the mat.") / 2
    assert max(tokens) < VOCABULARY


def test_training_twice_on_the_same_text_gives_the_same_tokenizer(small):
    assert Tokenizer.train(WORDS, VOCABULARY).to_json() == small.to_json()


def test_from_json_gives_back_the_same_tokens(small):
    again = Tokenizer.from_json(small.to_json())
    assert again.encode(WORDS) == small.encode(WORDS)
    assert again.vocabulary == small.vocabulary


def test_from_json_refuses_a_tokenizer_without_our_special_tokens():
    foreign = Library(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ValueError, match="special tokens"):
        Tokenizer.from_json(foreign.to_str())


def test_from_json_refuses_a_tokenizer_with_special_tokens_in_other_places():
    foreign = Library(models.BPE({"a": 0}, []))
    foreign.add_special_tokens(list(SPECIAL))
    with pytest.raises(ValueError, match=r"ids \[1, 2, 3\], expected \[0, 1, 2\]"):
        Tokenizer.from_json(foreign.to_str())


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_from_json_refuses_what_is_not_a_tokenizer(text):
    with pytest.raises(ValueError, match="not a tokenizer's JSON"):
        Tokenizer.from_json(text)


def test_pad_fills_to_the_longest_and_marks_begin_and_end():
    rows = [[5, 6, 7], [8]]
    assert pad(rows).tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert pad(rows, begin=True).tolist() == [[BEGIN, 5, 6, 7], [BEGIN, 8, PAD, PAD]]
    assert pad(rows, end=True).tolist() == [[5, 6, 7, END], [8, END, PAD, PAD]]
    assert pad(rows).dtype == torch.long


# Sizes


@pytest.fixture(scope="module")
def baseline_coders() -> tuple[Encoder, Decoder]:
    text = load("baseline", None, []).config.text
    shared = (text.vocabulary, text.max_tokens, text.grid**2, text.slot_width, text.width, text.heads)
    encoder = Encoder(*shared, text.encoder_feed_forward, text.encoder_layers)
    return encoder, Decoder(*shared, text.decoder_layers, text.decoder_parameters)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_baseline_decoder_has_800_thousand_parameters_within_ten_percent(baseline_coders):
    assert abs(count(baseline_coders[1]) - 800_000) <= 80_000


@pytest.mark.parametrize("vocabulary", [260, 1000, 2048])
def test_the_decoder_keeps_to_its_budget_whatever_the_vocabulary(vocabulary):
    decoder = Decoder(vocabulary, 32, 16, 64, 128, 4, 2, 800_000)
    assert abs(count(decoder) - 800_000) <= 80_000


def test_a_decoder_budget_too_small_for_its_tables_is_refused_with_the_least_that_would_do():
    with pytest.raises(ValueError, match="10000 is too few") as refused:
        Decoder(300, 8, 4, 16, 32, 4, 2, 10_000)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    assert count(Decoder(300, 8, 4, 16, 32, 4, 2, least)) == least


def test_the_baseline_encoder_has_at_most_a_million_parameters(baseline_coders):
    assert count(baseline_coders[0]) <= 1_000_000


def test_a_sentence_passes_through_at_most_1024_numbers(baseline_coders):
    slots = baseline_coders[0](torch.full((1, 32), 5))
    assert slots.shape == (1, 16, 64)
    assert slots[0].numel() <= MAX_SLOT_NUMBERS == 1024


# Encoder and decoder

SLOTS, SLOT_WIDTH, MAX_TOKENS = 6, 16, 12


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Encoder(50, MAX_TOKENS, SLOTS, SLOT_WIDTH, 32, 4, 64, 2).eval()


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """Untrained, but with embeddings and slot attention large enough to say something different for every sentence."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        decoder = Decoder(50, MAX_TOKENS, SLOTS, SLOT_WIDTH, 32, 4, 2, 30_000).eval()
    with torch.no_grad():
        for layer in decoder.layers:
            layer.cross_attention.out.weight.mul_(6)
            layer.self_attention.out.weight.mul_(3)
    return decoder


@pytest.fixture(scope="module")
def thoughts() -> torch.Tensor:
    """Random slots that stand for 40 sentences."""
    return torch.randn(40, SLOTS, SLOT_WIDTH, generator=torch.Generator().manual_seed(5)) * 2


@torch.no_grad()
def test_the_encoder_gives_a_sentence_the_same_slots_alone_and_padded_beside_a_longer_one(encoder):
    short, long = [7, 9, 11], list(range(10, 10 + MAX_TOKENS))
    alone = encoder(pad([short]))
    together = encoder(pad([long, short]))
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 0.1, "the two sentences must differ for this to mean anything"


@torch.no_grad()
def test_slots_behind_the_end_of_a_sentence_are_zero_and_the_others_are_not(encoder):
    slots = encoder(pad([[7, 9, 11]]))[0]
    filled = slots.abs().amax(-1) > 0
    assert filled.tolist() == [True, True, False, False, False, False]


@torch.no_grad()
def test_an_empty_sentence_has_zero_slots_and_does_not_spoil_its_neighbours(encoder):
    slots = encoder(pad([[], [7, 9]]))
    assert torch.count_nonzero(slots[0]) == 0
    torch.testing.assert_close(slots[1:], encoder(pad([[7, 9]])), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_encoder_hears_the_order_of_tokens(encoder):
    assert (encoder(torch.tensor([[7, 9, 11]])) - encoder(torch.tensor([[11, 9, 7]]))).abs().max() > 0.1


def without_cache(decoder: Decoder, slots: torch.Tensor) -> list[int]:
    """Greedy decoding of one sentence by running the whole prefix through the teacher-forced path at every step."""
    said: list[int] = []
    while len(said) < decoder.max_tokens:
        token = int(decoder(slots[None], torch.tensor([[BEGIN, *said]]))[0, -1].argmax())
        if token == END:
            break
        said.append(token)
    return said


def drop_padding(row: torch.Tensor) -> list[int]:
    return [token for token in row.tolist() if token != PAD]


@torch.no_grad()
def test_greedy_with_a_cache_says_what_argmax_without_one_says(decoder, thoughts):
    said = decoder.greedy(thoughts)
    wanted = [without_cache(decoder, slots) for slots in thoughts]
    assert [drop_padding(row) for row in said] == [drop_padding(torch.tensor(row)) for row in wanted]
    assert len({tuple(row) for row in wanted}) > 20, "sentences must differ for this to mean anything"


@torch.no_grad()
def test_greedy_says_the_same_alone_and_beside_others(decoder, thoughts):
    together = decoder.greedy(thoughts)
    for i, slots in enumerate(thoughts):
        assert drop_padding(decoder.greedy(slots[None])[0]) == drop_padding(together[i])


@torch.no_grad()
def test_teacher_forced_logits_do_not_see_later_tokens(decoder, thoughts):
    first = torch.tensor([[BEGIN, 5, 6, 7]])
    second = torch.tensor([[BEGIN, 5, 30, 40]])
    one, other = decoder(thoughts[:1], first), decoder(thoughts[:1], second)
    torch.testing.assert_close(one[:, :2], other[:, :2], rtol=0, atol=1e-6)
    assert (one[:, 2] - other[:, 2]).abs().max() > 0.1


class Script(Decoder):
    """A decoder that produces given tokens: its last layer norm returns the embedding of each step's token."""

    def __init__(self, rows: list[list[int]]) -> None:
        super().__init__(8, 6, 2, 4, 16, 2, 1, 10_000)
        rows_as_logits = torch.nn.functional.one_hot(torch.tensor(rows), 8).float()
        self.steps = iter(rows_as_logits.unbind(1))
        self.asked = 0
        self.embedding.weight.data = torch.eye(8, 16)
        self.norm.forward = self._next

    def _next(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return torch.nn.functional.pad(next(self.steps), (0, 8))[:, None]


def test_end_stops_a_sentence_and_what_follows_it_is_padding():
    script = Script([[5, END, 6, 7, 6, 5], [4, 3, 6, END, 5, 5]])
    assert script.greedy(torch.zeros(2, 2, 4)).tolist() == [[5, PAD, PAD, PAD], [4, 3, 6, PAD]]
    assert script.asked == 4, "decoding goes on after every sentence has ended"


def test_a_sentence_without_end_stops_at_max_tokens():
    script = Script([[5, 6, 5, 6, 5, 6]])
    assert script.greedy(torch.zeros(1, 2, 4)).tolist() == [[5, 6, 5, 6, 5, 6]]


# Ports


@pytest.mark.parametrize("patches", [1, 2, 3, 4])
def test_interpolation_rows_sum_to_one_and_stay_in_their_own_patch(patches):
    for size in range(4, 41):
        matrix = interpolation(size, patches)
        assert matrix.shape == (size, patches * CONTROL)
        torch.testing.assert_close(matrix.sum(1), torch.ones(size), rtol=0, atol=1e-6)
        assert (matrix >= 0).all()
        by_patch = matrix.view(size, patches, CONTROL).sum(-1)
        owner = by_patch.argmax(1)
        assert torch.equal(by_patch, torch.nn.functional.one_hot(owner, patches).float()), (size, patches)
        sizes = torch.bincount(owner, minlength=patches)
        assert (owner.diff() >= 0).all() and sizes.min() >= 1 and sizes.max() - sizes.min() <= 1, (size, patches)


def test_interpolation_is_linear_between_the_control_points_of_a_patch():
    control = torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(interpolation(5, 1) @ control, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))


def ports(size_x: int, size_y: int, grid: int = 4):
    pair = transposed_ports(grid, 64, 12, torch.Generator().manual_seed(0))
    for port in pair:
        port.fit(size_x, size_y)
    return pair


def made_up_slots(grid: int = 4) -> torch.Tensor:
    return torch.randn(8, grid**2, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(("face", "least"), [((16, 16), 0.95), ((17, 19), 0.95), ((50, 50), 0.9)], ids=str)
def test_slots_come_back_through_transposed_ports_and_a_transparent_lattice(face, least):
    """The wider a patch, the more cells between its control points blur them."""
    port_in, port_out = ports(*face)
    slots = made_up_slots()
    driven = port_in.drive(slots)
    assert driven.shape == (8, *face, 12)
    back = port_out.read(driven)
    assert torch.corrcoef(torch.stack([slots.flatten(), back.flatten()]))[0, 1] > least


@torch.no_grad()
@pytest.mark.parametrize("face", [(4, 4), (5, 7), (9, 4), (13, 11)], ids=str)
def test_ports_fit_faces_that_the_grid_does_not_divide(face):
    port_in, port_out = ports(*face)
    slots = made_up_slots()
    driven = port_in.drive(slots)
    back = port_out.read(driven)
    assert driven.shape == (8, *face, 12) and back.shape == slots.shape
    assert driven.isfinite().all() and back.isfinite().all()
    assert driven.abs().amax(dim=(0, 3)).min() > 0, "a cell of the face is not driven"
    own = torch.nn.functional.cosine_similarity(back, slots, dim=-1)
    other = torch.nn.functional.cosine_similarity(back, slots.roll(1, 1), dim=-1)
    assert own.mean() > 0.3 > other.mean().abs() + 0.2


@torch.no_grad()
def test_each_slot_drives_its_own_patch_and_no_other():
    port_in, _ = ports(8, 12, grid=2)
    slots = torch.zeros(4, 4, 64)
    slots[range(4), range(4)] = 1.0
    driven = port_in.drive(slots).abs().amax(-1) > 0
    assert driven.sum(0).eq(1).all(), "every cell hears exactly one slot"
    assert driven[0, :4, :6].all() and driven[1, :4, 6:].all() and driven[2, 4:, :6].all() and driven[3, 4:, 6:].all()
