"""Encoders that come from elsewhere or go elsewhere: official Myna weights, the model hub, other frozen encoders.

Imports `base`, `compute`, the method, `corpus` and `report`.
"""
