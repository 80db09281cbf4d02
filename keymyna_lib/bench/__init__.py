"""How fast the library is, beside a plain re-statement of the public code's way: `python -m keymyna_lib.bench`."""
