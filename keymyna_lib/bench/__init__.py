"""The benchmark: how fast the library is on this machine, beside a reference implementation of the public code.

May import anything except `run`.
"""
