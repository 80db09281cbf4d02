"""The synthetic corpus: scores audited, grouped into compositions, arranged, rendered.

Start at `build`. Imports what `corpus` may import, and `corpus` itself; nothing of `recordings`.
"""
