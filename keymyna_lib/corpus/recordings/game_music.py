"""Free game music: unlabelled recordings that any Debian or Ubuntu machine can fetch, by the name of their packages.

Much of it is sequenced or synthesised; some is played by bands. Debian's main archive holds free works alone: may be
used, changed and passed on, under the licences in each package's copyright file (`packages.licences_below`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from keymyna_lib.corpus.packages import COPYRIGHT, RECORD
from keymyna_lib.corpus.recordings.folder import UnlabelledFolder

# Those with minutes of music that are at least a sixth or so of what has to be downloaded (our choice). A release lacks
# some of them; the others are fetched all the same.
PACKAGES = (
    "asc-music",
    "boswars-data",
    "brainparty-data",
    "bumprace-data",
    "bzflag-data",
    "colobot-common-sounds",
    "drascula-music",
    "enigma-data",
    "extremetuxracer-data",
    "fillets-ng-data",
    "flare-game",
    "fretsonfire-songs-muldjord",
    "fretsonfire-songs-sectoid",
    "frozen-bubble-data",
    "funnyboat",
    "hedgewars-data",
    "hex-a-hop-data",
    "hyperrogue-music",
    "krank",
    "lincity-ng-data",
    "lordsawar-data",
    "marsshooter-data",
    "megaglest-data",
    "naev-data",
    "nexuiz-music",
    "noiz2sa-data",
    "parsec47-data",
    "pathological",
    "pink-pony-data",
    "planetblupi-music-ogg",
    "powermanga-data",
    "pushover-data",
    "scorched3d-data",
    "searchandrescue-data",
    "singularity-music",
    "starfighter-data",
    "supertux-data",
    "trackballs-data",
    "tumiki-fighters-data",
    "tuxmath-data",
    "ufoai-music",
    "unknown-horizons",
    "warmux-data",
    "warzone2100-music",
    "wesnoth-1.20-music | wesnoth-1.18-music | wesnoth-1.16-music | wesnoth-1.14-music",
    "widelands-data",
    "xmoto-data",
    "zaz-data",
)


class GameMusic(UnlabelledFolder):
    """Recordings of games in Debian, below <data root>/unlabelled/game_music/<package>; see `packages`."""

    name = "unlabelled:game_music"
    size = "3.4 GB in 48 packages"
    url = "https://packages.debian.org/stable/games/"
    licence = "free, by package: GPL, CC BY-SA and others; see each package's copyright file"

    def __init__(self) -> None:
        super().__init__("game_music")
        self.title = "free game music of Debian"
        self.how = "./run_all.sh --data-root DIR -p fetch game_music, on any Debian or Ubuntu."

    def index(self, root: Path | str) -> pd.DataFrame:
        """The sound files; see `UnlabelledFolder.index`."""
        table = super().index(root)
        return table[[Path(path).name not in (COPYRIGHT, RECORD) for path in table["path"]]]

    def packages(self) -> Sequence[str]:
        """What is fetched."""
        return PACKAGES
