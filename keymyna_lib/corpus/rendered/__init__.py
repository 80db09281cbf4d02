"""Synthetic corpora: scores audited, grouped into compositions, arranged, rendered; songs beside them, or alone.

Start at `build`. Imports what `corpus` may import, `corpus` itself, `songs` and `sound`; nothing of `recordings`.
"""
