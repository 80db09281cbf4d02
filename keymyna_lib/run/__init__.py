"""The runner behind `run_all.sh`: the notebooks in order, each when something it depends on has changed.

Stands above everything else; only the command line imports it.
"""
