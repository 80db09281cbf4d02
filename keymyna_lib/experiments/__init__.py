"""What the notebooks measure: head studies, comparisons of encoders, controls, robustness, probes, conclusions.

Imports `base`, `compute`, the method, `corpus`, `encoders` and `report`; each module is one experiment, and `upstream`
opens what earlier notebooks published.
"""
