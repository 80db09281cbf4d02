"""Data sets of recordings: adapters, downloads, decoding, and the corpus made of them."""
