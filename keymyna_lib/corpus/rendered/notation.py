"""Readers of notated music: MusicXML chorales and ABC tunes become arrays of notes.

Notes are (note, 4) float32: onset and duration [beats], MIDI pitch, part (0 = soprano or melody); sorted by
onset, part and pitch. A beat is a quarter note, or a dotted quarter in 3/8, 6/8, 9/8 and 12/8. Ties are
merged; grace notes, ornaments, fermatas and chord symbols are left out. Repeats are played in ABC, but not in
MusicXML.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import symusic

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError

VOICES = ("soprano", "alto", "tenor", "bass")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# MIDI times are rounded to 1/48 quarter: exact for triplets of 32nds, and removes abc2midi's one-tick gaps.
_GRID = 48
_ABC_HEADER = re.compile(r"[MLKPV]:")
# Annotations, graces, decorations and ornaments; inline fields are captured, to be kept.
_ABC_SILENT = re.compile(
    r'(\[[A-Z]:[^]]*\])|"[^"]*"|\{[^}]*\}|![^!]{1,20}!'
    r"|[~HJLMOPSTuv`]|\.(?=[\[(^_=A-Ga-g])"
)


def read_musicxml(data: bytes) -> tuple[np.ndarray, int | None, int] | None:
    """Notes, key (None without an encoded mode) and beats per bar of a chorale; None unless in four voices.

    Only the parts named Soprano, Alto, Tenor and Bass are read, in score order (two settings have two
    sopranos): obbligato instruments, and the continuo that doubles the bass, are left out. The key is that of
    the first part, its tonic following from signature and mode; in this encoding the other parts carry no
    mode, or a default "major".
    """
    root = ET.fromstring(data)
    names = {p.get("id"): (p.findtext("part-name") or "").strip().lower() for p in root.iter("score-part")}
    parts = [p for p in root.findall("part") if names[p.get("id")].startswith(VOICES)]
    if not all(any(names[p.get("id")].startswith(voice) for p in parts) for voice in VOICES):
        return None
    signature = root.find("part/measure/attributes/key")
    mode = None if signature is None else signature.findtext("mode")
    key = None
    if mode in keys.MODES:
        key = keys.key_index(7 * int(signature.findtext("fifths")) + (9 if mode == "minor" else 0), mode)
    time = parts[0].find("measure/attributes/time")
    beat, beats_per_bar = _metre(int(time.findtext("beats")), int(time.findtext("beat-type")))
    notes = [note for number, part in enumerate(parts) for note in _part_notes(part, number)]
    return _as_array(notes, beat), key, beats_per_bar


def measure_onsets(data: bytes) -> dict[int, tuple[float, float]]:
    """(onset, length) [beats] of each numbered measure of a MusicXML file, by its first part.

    What is numbered like "7a" is the rest of measure 7, after a repeat sign or the end of a line, and belongs to it.
    """
    part = ET.fromstring(data).find("part")
    time = part.find("measure/attributes/time")
    beat, _ = _metre(int(time.findtext("beats")), int(time.findtext("beat-type")))
    found: dict[int, tuple[float, float]] = {}
    onset, divisions, last = Fraction(0), 1, 0
    for measure in part.findall("measure"):
        position = end = onset
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions") or divisions)
            step = Fraction(element.findtext("duration") or 0) / divisions
            if element.tag == "backup":
                position -= step
            elif element.tag in ("note", "forward") and element.find("chord") is None:
                position += step
            end = max(end, position)
        number = measure.get("number")
        last = int(number) if number.isdigit() else last
        first, length = found.get(last, (float(onset) / beat, 0.0))
        found[last] = first, length + float(end - onset) / beat
        onset = end
    return found


def _part_notes(part: ET.Element, number: int) -> Iterator[tuple[float, float, int, int]]:
    """(onset, duration, pitch, part number) of one MusicXML part, in quarters."""
    notes: list[list] = []
    tied: dict[int, list] = {}  # pitch -> the note that a tie leaves open
    onset = position = end = Fraction(0)
    divisions = 1
    for measure in part.findall("measure"):
        position = end
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions") or divisions)
            duration = Fraction(element.findtext("duration") or 0) / divisions
            if element.tag == "backup":
                position -= duration
            elif element.tag == "forward":
                position += duration
            elif element.tag == "note" and duration:  # grace notes have none
                if element.find("chord") is None:
                    onset, position = position, position + duration
                pitch = element.find("pitch")
                if pitch is not None:
                    midi = (
                        12 * int(pitch.findtext("octave"))
                        + 12
                        + _STEPS[pitch.findtext("step")]
                        + int(pitch.findtext("alter") or 0)
                    )
                    ties = {tie.get("type") for tie in element.findall("tie")}
                    if "stop" in ties and midi in tied:
                        note = tied.pop(midi)
                        note[1] += duration
                    else:
                        note = [onset, duration, midi]
                        notes.append(note)
                    if "start" in ties:
                        tied[midi] = note
            end = max(end, position)
    return ((float(onset), float(duration), midi, number) for onset, duration, midi in notes)


def plain_key(text: str) -> int | None:
    """Key of an ABC `K:` field that is plain major or minor; None for a modal, qualified or queried one.

    "M" alone means major to some and minor to others: None.

    >>> plain_key("Bb major"), plain_key("Am"), plain_key("D dorian")
    (10, 21, None)
    """
    match = re.fullmatch(r"[A-G][#b]? ?((?i:maj|major|min|minor)|m|)", text.strip())
    return keys.parse_key(match[0]) if match else None


def read_abc(tunes: Sequence[str]) -> list[tuple[np.ndarray, int] | None]:
    """Notes and beats per bar of ABC tunes (their first voice), by symusic's abc2midi; None if unreadable."""
    chords = "%%MIDI chordattack 0"  # else double stops are spread
    texts = [[f"X:{i}", chords, *_sounding_abc(tune), "", ""] for i, tune in enumerate(tunes)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.abc").write_text("\n".join(itertools.chain.from_iterable(texts)), encoding="latin-1")
        try:
            subprocess.run(
                [os.environ["SYMUSIC_ABC2MIDI"], Path(folder, "t.abc"), "-NGRA", "-NGUI", "-NFER"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise KeyMynaError(f"abc2midi hangs on a tune, {tunes[0][:60]!r} or soon after.") from None
        parsed = [_read_midi(Path(folder, f"t{i}.mid"), text) for i, text in enumerate(texts)]
    if len(tunes) > 1:  # abc2midi may crash on a tune after others that it reads well alone
        parsed = [p or read_abc([tune])[0] for p, tune in zip(parsed, tunes)]
    return parsed


def _sounding_abc(tune: str) -> list[str]:
    """The lines of a tune that decide its notes, without what is left out."""
    lines = []
    head, field, body = tune.partition("\nK:")
    for line in (head + field + re.split(r"\n\s*\n", body)[0]).splitlines():  # a blank line ends the tune
        line = line.split("%")[0].rstrip()
        if _ABC_HEADER.match(line):
            lines.append(line)
        elif line and not re.match(r"[A-Za-z]:", line):
            lines.append(_ABC_SILENT.sub(r"\1", line))
    return lines


def _read_midi(path: Path, abc: list[str]) -> tuple[np.ndarray, int] | None:
    """Notes of the first track that has any, in beats of the tune's metre."""
    written = next((line[2:].strip() for line in abc if line.startswith("M:")), "C")
    metre = re.match(r"(\d+)/(\d+)", {"C": "4/4", "C|": "2/2"}.get(written, written))
    if metre is None or not path.exists():
        return None
    try:
        score: Any = symusic.Score.from_midi(path.read_bytes())
    except (RuntimeError, ValueError):  # cut short by a crash
        return None
    track = next((track for track in score.tracks if len(track.notes)), None)
    if track is None:
        return None
    columns = track.notes.numpy()
    start = np.rint(columns["time"] * (_GRID / score.tpq))
    end = np.rint((columns["time"] + columns["duration"]) * (_GRID / score.tpq))
    notes = np.stack([start / _GRID, np.maximum(end - start, 1) / _GRID, columns["pitch"], 0 * start], axis=1)
    beat, beats_per_bar = _metre(int(metre[1]), int(metre[2]))
    return _as_array(notes, beat), beats_per_bar


def _metre(numerator: int, denominator: int) -> tuple[float, int]:
    """Length of a beat [quarters] and beats per bar."""
    if denominator == 8 and numerator % 3 == 0:
        return 1.5, numerator // 3
    return 1.0, max(1, round(numerator * 4 / denominator))


def _as_array(notes: Sequence | np.ndarray, beat: float) -> np.ndarray:
    """(onset, duration, pitch, part), times in quarters -> sorted (note, 4) float32, times in beats."""
    array = np.asarray(notes, np.float64).reshape(-1, 4)
    array = array[np.lexsort((array[:, 2], array[:, 3], array[:, 0]))] / (beat, beat, 1, 1)
    return array.astype(np.float32)
