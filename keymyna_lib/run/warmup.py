"""Compile librosa's numba functions, once and in one process.

They are compiled at first use and cached on disk, beside librosa. Two processes that do so at the same moment can leave
a cache that crashes every later process, so the runner compiles them before it starts any.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.base.errors import KeyMynaError

_PROGRAM = """
import librosa, numpy
noise = numpy.random.default_rng(0).normal(size=32000).astype(numpy.float32)
librosa.feature.chroma_stft(y=noise, sr=16000)
librosa.effects.time_stretch(noise, rate=1.25)
librosa.effects.pitch_shift(noise, sr=16000, n_steps=1)
"""


def compile_librosa() -> None:
    """Compile them in a separate process, once for each installation of librosa.

    Raises
    ------
    KeyMynaError
        When librosa cannot be run in this environment.
    """
    librosa = Path(importlib.util.find_spec("librosa").origin)  # found without being imported
    installed = hashing.sha256_json([str(librosa), librosa.stat().st_ctime_ns])
    stamp = paths.CACHE / "compiled" / installed[:16]
    if stamp.exists():
        return
    print("compiling librosa's functions, once (about 20 s) ...", flush=True)
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    if done.returncode:
        raise KeyMynaError(
            f"librosa does not run in this environment ({done.stderr.strip().splitlines()[-1:]}, status "
            f"{done.returncode}). Install the packages of requirements.lock anew."
        )
    files.write_text(stamp, "")
