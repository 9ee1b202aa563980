"""Ids of the tokens that stand for no text."""

PAD, BEGIN, END = 0, 1, 2
