"""Encoder and decoder.  The encoder turns tokens into slots, which drive the lattice.  The decoder turns slots into tokens.

Both are small pre-norm transformers.  The encoder makes G x G slots of 64 numbers, so a sentence has to pass through at most
1024 numbers.  The decoder sees only the slots that come out of the lattice, and its own previous tokens.  Its feed-forward
width is solved from a parameter budget, because the share of the embedding depends on the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from lattice.data.special_tokens import BEGIN, END, PAD

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, each [B, heads, M, width / heads]."""


class Attention(nn.Module):
    """Multi-head attention of queries [B, N, width] over a context [B, M, context_width]."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def keys_values(self, context: torch.Tensor) -> KeysValues:
        """Keys and values of a context [B, M, context_width], each [B, heads, M, width / heads]."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self,
        x: torch.Tensor,
        keys_values: KeysValues,
        mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), *keys_values, attn_mask=mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """The feed-forward part of a layer, for x [..., width]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """A layer of the encoder: self-attention over all tokens of a sentence, and feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed = FeedForward(width, hidden)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Runs the layer on x [B, N, width].  `mask` [B, 1, 1, N] (bool) is True for tokens, and False for padding."""
        y = self.norm_attention(x)
        x = x + self.attention(y, self.attention.keys_values(y), mask)
        return x + self.feed(self.norm_feed(x))


class DecoderLayer(nn.Module):
    """A layer of the decoder: causal self-attention, cross-attention to the slots, and feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, slot_width: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads, slot_width)
        self.feed = FeedForward(width, hidden)

    def forward(
        self, x: torch.Tensor, slots: KeysValues, past: KeysValues | None = None, there: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, KeysValues]:
        """Runs the layer on x [B, N, width].  Returns the output, and the keys and values of all positions so far.

        With a `past`, x is one new position [B, 1, width] after those of the past.  Without, x is a whole sequence.  With
        `there` (bool [B, S]), x looks at those slots only.
        """
        y = self.norm_self(x)
        now = self.self_attention.keys_values(y)
        if past is not None:
            now = torch.cat([past[0], now[0]], dim=2), torch.cat([past[1], now[1]], dim=2)
        x = x + self.self_attention(y, now, causal=past is None)
        x = x + self.cross_attention(self.norm_cross(x), slots, None if there is None else there[:, None, None, :])
        return x + self.feed(self.norm_feed(x)), now


def _places(table: torch.Tensor, there: torch.Tensor, from_end: bool) -> torch.Tensor:
    """The rows of a table [N, width] for places that are there, bool [B, M]: [M, width] from the start, or [B, M, width].

    From the end, the last place that is there has row 0, and what comes after it has row 0, too.
    """
    if not from_end:
        return table[: there.shape[1]]
    at = torch.arange(there.shape[1], device=there.device)
    return table[(there.sum(1, keepdim=True) - 1 - at).clamp(min=0)]


class Encoder(nn.Module):
    """Turns token ids [B, N], padded with PAD, into slots [B, S, slot_width].

    After the layers, each slot is made from `tokens_per_slot` neighbouring positions, which are concatenated.  Slots after the
    end of the sentence are zero.

    `from_end` counts places from the end of the sentence.  Then an encoder without layers knows no places: nothing meets in it
    that they could tell apart, and a slot of the same tokens is the same wherever it stands.
    """

    def __init__(
        self,
        vocabulary: int,
        max_tokens: int,
        slots: int,
        slot_width: int,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        from_end: bool = False,
    ) -> None:
        super().__init__()
        self.slots, self.from_end = slots, from_end
        self.tokens_per_slot = math.ceil(max_tokens / slots)
        self.embedding = nn.Embedding(vocabulary, width)
        self.register_parameter("position", None)
        if layers or not from_end:
            self.position = nn.Parameter(torch.empty(slots * self.tokens_per_slot, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.to_slot = nn.Linear(width * self.tokens_per_slot, slot_width)
        for table in (self.embedding.weight, self.position):
            if table is not None:
                nn.init.normal_(table, std=width**-0.5)

    def there(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which slots hold a token, bool [B, S], for token ids [B, N]."""
        filled = F.pad(tokens != PAD, (0, self.slots * self.tokens_per_slot - tokens.shape[1]))
        return filled.unflatten(1, (self.slots, -1)).any(-1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        used = math.ceil(tokens.shape[1] / self.tokens_per_slot)  # slots that the longest sentence of the batch reaches
        tokens = F.pad(tokens, (0, used * self.tokens_per_slot - tokens.shape[1]), value=PAD)
        there = tokens != PAD
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + _places(self.position, there, self.from_end)
        x = x * there[..., None]
        for layer in self.layers:
            x = layer(x, there[:, None, None, :])
        x = self.norm(x) * there[..., None]
        per_slot = x.unflatten(1, (used, self.tokens_per_slot)).flatten(2)
        slots = self.to_slot(per_slot) * there.unflatten(1, (used, -1)).any(-1, keepdim=True)
        return F.pad(slots, (0, 0, 0, self.slots - used))


class Decoder(nn.Module):
    """Turns slots [B, S, slot_width] into logits of tokens.

    It is trained by teacher forcing.  Texts are decoded greedily, with a cache.  `from_end` counts the places of slots from the
    last one that is there.  Raises ValueError if `budget` parameters are too few.
    """

    def __init__(
        self,
        vocabulary: int,
        max_tokens: int,
        slots: int,
        slot_width: int,
        width: int,
        heads: int,
        layers: int,
        budget: int,
        from_end: bool = False,
    ) -> None:
        super().__init__()
        self.max_tokens, self.from_end = max_tokens, from_end
        hidden = self.feed_forward_width(vocabulary, max_tokens, slots, slot_width, width, layers, budget)
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(max_tokens + 1, width))
        self.slot_position = nn.Parameter(torch.empty(slots, slot_width))
        self.norm_slots = nn.LayerNorm(slot_width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden, slot_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for table in (self.embedding.weight, self.position):
            nn.init.normal_(table, std=width**-0.5)
        # As large as the normalised slots to which it is added, so that attention can tell slots apart from the first step on.
        nn.init.normal_(self.slot_position)

    @staticmethod
    def feed_forward_width(
        vocabulary: int, max_tokens: int, slots: int, slot_width: int, width: int, layers: int, budget: int
    ) -> int:
        """The feed-forward width that brings the decoder closest to `budget` parameters.

        Raises ValueError if the budget is too small for a width of 16.
        """
        tables = (vocabulary + max_tokens + 1) * width + slots * slot_width + 2 * slot_width + 2 * width
        layer = 4 * width * width + 2 * width * width + 2 * slot_width * width + 6 * width + width
        hidden = round((budget - tables - layers * layer) / (layers * (2 * width + 1)))
        if hidden < 16:
            raise ValueError(
                f"text.decoder_parameters: {budget} is too few for a vocabulary of {vocabulary} at width {width}; "
                f"at least {tables + layers * (layer + 16 * (2 * width + 1))} are needed"
            )
        return hidden

    def forward(self, slots: torch.Tensor, tokens: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, N, vocabulary] for the token after each of `tokens` [B, N], which begin with BEGIN.

        With `there` (bool [B, S]), only those slots are looked at.
        """
        context = self._context(slots, there)
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        for layer in self._layers():
            x, _ = layer(x, layer.cross_attention.keys_values(context), there=there)
        return F.linear(self.norm(x), self.embedding.weight)

    @torch.no_grad()
    def greedy(self, slots: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """Decodes greedily: takes the most likely token at each position.  `there` as for `forward`.

        Returns token ids [B, N], N <= max_tokens.  END and all that follows it are replaced by PAD.
        """
        context = self._context(slots, there)
        layers = list(self._layers())
        crossed = [layer.cross_attention.keys_values(context) for layer in layers]
        past = [self._empty_past(context, layer) for layer in layers]
        token = torch.full((slots.shape[0], 1), BEGIN, device=slots.device)
        done = torch.zeros_like(token, dtype=torch.bool)
        decoded = []
        for position in range(self.max_tokens):
            x = self.embedding(token) + self.position[position]
            for i, layer in enumerate(layers):
                x, past[i] = layer(x, crossed[i], past[i], there)
            token = F.linear(self.norm(x), self.embedding.weight).argmax(-1)
            done |= token == END
            decoded.append(token.masked_fill(done, PAD))
            if done.all():
                break
        return torch.cat(decoded, dim=1)

    def _layers(self) -> Iterator[DecoderLayer]:
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield layer

    def _context(self, slots: torch.Tensor, there: torch.Tensor | None) -> torch.Tensor:
        if not self.from_end:
            return self.norm_slots(slots) + self.slot_position
        assert there is not None  # only a model that reads in time counts from the end
        return self.norm_slots(slots) + _places(self.slot_position, there, from_end=True)

    @staticmethod
    def _empty_past(context: torch.Tensor, layer: DecoderLayer) -> KeysValues:
        heads = layer.self_attention.heads
        width = layer.self_attention.out.in_features
        nothing = context.new_empty(context.shape[0], heads, 0, width // heads, dtype=layer.self_attention.out.weight.dtype)
        return nothing, nothing
