"""Ids of the special tokens, which stand for no text."""

PAD, BEGIN, END = 0, 1, 2
