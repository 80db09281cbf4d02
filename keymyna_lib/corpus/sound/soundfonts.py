"""SoundFonts: where the banks of sounds lie that play a corpus. None is part of this repository.

The corpus is played on TimGM6mb, which the package pretty_midi brings along. FluidR3 is held out, to test whether what
was learned survives other instruments: Debian and Ubuntu have it as a package (`fluid-soundfont-gm`, 120 MB).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keymyna_lib.base import hashing, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.packages import COPYRIGHT, fetch_packages

DEFAULT = "TimGM6mb"
_SYSTEM = Path("/usr/share/sounds/sf2")  # where Debian's packages put theirs


@dataclass(frozen=True, kw_only=True)
class SoundFont:
    """A bank that is known by name.

    file : its name.
    sha256 : of the file.
    licence : under which it may be used.
    package : Debian package that has it; "" for the one that comes with pretty_midi.
    instead : programmes that play for others, which it has for a small range only.
    """

    file: str
    sha256: str
    licence: str
    package: str = ""
    instead: Mapping[int, int] = field(default_factory=dict)


SOUNDFONTS: dict[str, SoundFont] = {
    DEFAULT: SoundFont(
        file="TimGM6mb.sf2", sha256="82475b91a76de15cb28a104707d3247ba932e228bada3f47bba63c6b31aaf7a1", licence="GPL-2+"
    ),
    "FluidR3": SoundFont(
        file="FluidR3_GM.sf2",
        sha256="74594e8f4250680adf590507a306655a299935343583256f3b722c48a1bc1cb0",
        licence="MIT",
        package="fluid-soundfont-gm",
        # contrabass, tuba: nothing above MIDI 56 and 72
        instead={43: 32, 58: 57},
    ),
}


def find(soundfont: str) -> Path:
    """The file of a SoundFont.

    Parameters
    ----------
    soundfont : a name in SOUNDFONTS, or the path of a file that ends in .sf2 or .sf3.

    Raises
    ------
    KeyMynaError
        When there is no such name or file, or a file is not the one that its name stands for.
    """
    if soundfont not in SOUNDFONTS:
        path = Path(soundfont)
        if path.suffix.lower() not in (".sf2", ".sf3") or not path.is_file():
            raise KeyMynaError(
                f"soundfont {soundfont!r}: expected one of {', '.join(SOUNDFONTS)}, or the path of an .sf2 file."
            )
        return path
    known = SOUNDFONTS[soundfont]
    if not known.package:
        return _of_pretty_midi(known.file)
    for path in _places(known):
        if path.is_file():
            if hashing.sha256_file(path) != known.sha256:
                raise KeyMynaError(f"{path} is not the {soundfont} that results are compared on; remove it.")
            return path
    raise KeyMynaError(
        f"{known.file} is missing. `soundfonts.fetch` gets it on Debian and Ubuntu ({known.package}); elsewhere, "
        f"put it into {folder(soundfont)}, or pass its path."
    )


def fetch(soundfont: str, *, show: bool = True, say: Callable[[str], None] = print) -> Path:
    """The file of a SoundFont, which is fetched first if it is not there, from Debian's package, without root.

    Parameters
    ----------
    show : draw a progress bar.
    say : is told the licence of what was fetched.

    Raises
    ------
    KeyMynaError
        As `find`; or when it cannot be fetched.
    """
    known = SOUNDFONTS.get(soundfont)
    if known and known.package and not any(path.is_file() for path in _places(known)):
        place = folder(soundfont)
        (row,) = fetch_packages(
            [known.package], place.parent, lambda path: path.name == known.file, show=show
        ).itertuples()
        if row.state == "failed":
            raise KeyMynaError(f"{known.file} cannot be fetched: {row.problem}. Or put the file into {place}.")
        say(f"{known.file}: {known.licence} licence, see {place / COPYRIGHT}")
    return find(soundfont)


def sha256_of(soundfont: str) -> str:
    """The sha256 of a SoundFont: of a name, that of the file which it stands for."""
    known = SOUNDFONTS.get(soundfont)
    return known.sha256 if known else hashing.sha256_file(find(soundfont))


def instead(soundfont: str, programme: int) -> int:
    """The programme that plays a programme's part in a SoundFont: itself, unless that one lacks notes."""
    return SOUNDFONTS[soundfont].instead.get(programme, programme) if soundfont in SOUNDFONTS else programme


def folder(soundfont: str) -> Path:
    """Where a fetched SoundFont is kept."""
    return paths.CACHE / "soundfonts" / SOUNDFONTS[soundfont].package


def _places(known: SoundFont) -> tuple[Path, Path]:
    return _SYSTEM / known.file, paths.CACHE / "soundfonts" / known.package / known.file


def _of_pretty_midi(name: str) -> Path:
    """A file in the installed package pretty_midi, found without importing it."""
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.submodule_search_locations[0]) / name if spec else None
    if path is None or not path.is_file():
        raise KeyMynaError(
            f"{name} is missing: it comes with the package pretty_midi. Install what requirements.lock names and run "
            "again."
        )
    return path
