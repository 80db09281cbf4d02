from __future__ import annotations

import dataclasses
import hashlib
import shutil

import pandas as pd
import pytest

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.sound import render, soundfonts

HELD_OUT = "FluidR3"


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """A held-out SoundFont of four bytes, whose package a stand-in for apt has; the package's name."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(soundfonts, "_SYSTEM", tmp_path / "system")
    known = dataclasses.replace(soundfonts.SOUNDFONTS[HELD_OUT], sha256=hashlib.sha256(b"RIFF").hexdigest())
    monkeypatch.setitem(soundfonts.SOUNDFONTS, HELD_OUT, known)
    return known


def stand_in(content: bytes | None):
    def fetch_packages(names, folder, keep, *, show):
        for name in names:
            (folder / name).mkdir(parents=True)
            for file in ("FluidR3_GM.sf2", "fluidr3_gm.cfg"):
                if content is not None and keep(folder / file):
                    (folder / name / file).write_bytes(content)
        state, problem = ("failed", "no network") if content is None else ("fetched", "")
        return pd.DataFrame([(names[0], state, problem)], columns=["path", "state", "problem"])

    return fetch_packages


def test_the_default_one_is_there_and_is_the_one_that_was_measured():
    path = soundfonts.find(soundfonts.DEFAULT)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == soundfonts.SOUNDFONTS[soundfonts.DEFAULT].sha256
    assert soundfonts.fetch(soundfonts.DEFAULT) == path


def test_the_held_out_one_is_found_where_it_may_be(bank):
    with pytest.raises(KeyMynaError, match="FluidR3_GM.sf2 is missing.*fluid-soundfont-gm"):
        soundfonts.find(HELD_OUT)
    for place in (soundfonts.folder(HELD_OUT), soundfonts._SYSTEM):
        place.mkdir(parents=True)
        (place / bank.file).write_bytes(b"RIFF")
        assert soundfonts.find(HELD_OUT) == place / bank.file  # the machine's own goes first
        (place / bank.file).write_bytes(b"RIFX")
        with pytest.raises(KeyMynaError, match="FluidR3_GM.sf2 is not the FluidR3"):
            soundfonts.find(HELD_OUT)
        (place / bank.file).unlink()


def test_it_is_fetched_once_and_its_licence_shown(bank, monkeypatch):
    monkeypatch.setattr(soundfonts, "fetch_packages", stand_in(b"RIFF"))
    said: list[str] = []
    path = soundfonts.fetch(HELD_OUT, show=False, say=said.append)
    assert path.read_bytes() == b"RIFF" and [one.name for one in path.parent.iterdir()] == [bank.file]
    assert len(said) == 1 and "MIT" in said[0] and "copyright" in said[0]
    assert soundfonts.fetch(HELD_OUT, show=False, say=said.append) == path and len(said) == 1  # nothing to fetch


def test_what_cannot_be_fetched_is_said(bank, monkeypatch):
    monkeypatch.setattr(soundfonts, "fetch_packages", stand_in(None))
    with pytest.raises(KeyMynaError, match="cannot be fetched: no network"):
        soundfonts.fetch(HELD_OUT, show=False)


def test_one_s_own_is_taken_by_its_path(tmp_path):
    mine = tmp_path / "mine.sf2"
    shutil.copy(soundfonts.find(soundfonts.DEFAULT), mine)
    assert soundfonts.find(str(mine)) == mine == soundfonts.fetch(str(mine))
    for unknown in ("FluidR4", str(tmp_path / "other.sf2"), __file__):
        with pytest.raises(KeyMynaError, match="soundfont.*TimGM6mb, FluidR3"):
            soundfonts.find(unknown)


def test_what_a_bank_lacks_is_played_by_another():
    assert soundfonts.instead(HELD_OUT, 58) == 57
    assert soundfonts.instead(HELD_OUT, 57) == 57 == soundfonts.instead(soundfonts.DEFAULT, 57)
    assert soundfonts.instead("mine.sf2", 58) == 58


def test_the_held_out_one_has_every_programme_and_none_is_silent():
    """Only where it is installed or was fetched."""
    try:
        soundfonts.find(HELD_OUT)
    except KeyMynaError:
        pytest.skip("FluidR3 is not on this machine")
    loudness = {p: render.loudness(HELD_OUT, soundfonts.instead(HELD_OUT, p)) for p in render.PROGRAMME_LOUDNESS}
    assert min(loudness.values()) > -46 and max(loudness.values()) < -10
