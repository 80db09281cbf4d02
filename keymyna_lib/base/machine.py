"""Facts about this machine that neither `platform` nor psutil knows on Linux."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The model of the processor, for instance "AMD EPYC"; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
