"""Text on both sides of the lattice: byte-level BPE, the encoder that makes slots, the decoder that reads them."""
