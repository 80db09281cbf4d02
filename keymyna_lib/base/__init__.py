"""What every module stands on: errors, paths, atomic files, hashes, seeds, progress bars, devices, the machine.

Imports nothing else of the library.
"""
