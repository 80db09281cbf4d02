"""Encoders that come from elsewhere or go elsewhere: official Myna weights, the model hub, other frozen encoders.

Imports the method, `corpus` and `report`.
"""
