"""One recording at a time, heard and seen: what notebook 85 shows, and the panel of widgets to choose it with.

Every recording takes the way of `keymyna predict`: a track of a corpus is written to a file, and heard from there.
"""

from __future__ import annotations

import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
import torch
from matplotlib.figure import Figure

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.base.seeds import numpy_stream, torch_stream
from keymyna_lib.corpus.recordings.decode import read_audio
from keymyna_lib.front_ends import band_centres, power
from keymyna_lib.keys import KEY_NAMES, N_KEYS, RELATIONS, camelot, open_key, relation
from keymyna_lib.predict import SILENCE, Estimate, KeyFinder
from keymyna_lib.report.answers import circle_of_fifths, key_timeline, masked_spectrogram, neighbour_map
from keymyna_lib.spectrogram import PEAK, SAMPLE_RATE, compress

if TYPE_CHECKING:
    from keymyna_lib.corpus.corpus import Corpus

SPECTROGRAM, CIRCLE, TIMELINE, NEIGHBOURS = "spectrogram", "circle of fifths", "timeline", "neighbours"
_SHOWN = 300.0  # s of a file that are played and drawn; its key is that of the whole


@dataclass(frozen=True)
class Heard:
    """A recording and what was heard in it.

    Attributes
    ----------
    name : of the file, or the title of the track.
    audio : (sample,) float32 at 16 kHz, of the first five minutes.
    estimate : with the key over time, and the embedding.
    track : its id, of a track of the corpus; else empty.
    key : what the corpus says, 0 to 23; None where it says nothing.
    """

    name: str
    audio: np.ndarray
    estimate: Estimate
    track: str = ""
    key: int | None = None

    @property
    def answer(self) -> str:
        """The answer in a line."""
        heard = self.estimate
        if heard.key is None:
            said = f"{self.name}: no clear key ({heard.unclear})"
        else:
            first, second = heard.ranking[:2]
            said = (
                f"{self.name}: {KEY_NAMES[first]} ({camelot(first)}, {open_key(first)}), confidence "
                f"{heard.probabilities[first]:.2f}; then {KEY_NAMES[second]} {heard.probabilities[second]:.2f}"
            )
        if heard.unclear != SILENCE:
            said += f"; {round(heard.tuning):+d} cents off concert pitch"
        return said + (f". The corpus says {KEY_NAMES[self.key]}." if self.key is not None else ".")

    def wav(self) -> bytes:
        """The audio as a file, 16 bits."""
        file = io.BytesIO()
        soundfile.write(file, self.audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        return file.getvalue()


class Session:
    """A key model at hand, and tracks of a corpus to compare recordings with, embedded as files are.

    Parameters
    ----------
    finder : the model.
    corpus : of any front end.
    tracks : ids of the tracks to compare with.

    Attributes
    ----------
    titles : of the tracks, by id.

    Raises
    ------
    KeyMynaError
        When there is no track, or none with any sound.
    """

    def __init__(self, finder: KeyFinder, corpus: Corpus, tracks: Sequence[str]):
        self._finder, self._corpus = finder, corpus
        self.titles = {track: self._title(track) for track in tracks}
        rows = {}
        for track in bar(tracks, desc="tracks", unit="track"):
            embedding = self._of_samples(corpus.audio(track)).embedding
            if embedding is not None:  # not of silence
                rows[track] = embedding
        if not rows:
            raise KeyMynaError(f"{corpus.path} has no track to compare with; take more tracks.")
        self._tracks = list(rows)
        self._embeddings = np.stack(list(rows.values()))

    def of_track(self, track: str) -> Heard:
        """Hear a track of the corpus; a KeyMynaError when there is none of that id."""
        audio = self._corpus.audio(track)
        return Heard(self._title(track), audio, self._of_samples(audio, over_time=True), track, self._key(track))

    def of_file(self, path: Path | str) -> Heard:
        """Hear a file; raises as `KeyFinder.estimate` does."""
        path = Path(path).expanduser()
        estimate = self._finder.estimate(path, over_time=True)
        return Heard(path.name, read_audio(path, seconds=_SHOWN), estimate)

    def of_upload(self, name: str, content: bytes | memoryview) -> Heard:
        """Hear a file that somebody sent; raises as `of_file`, and names it as they do."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            path.write_bytes(content)
            try:
                return self.of_file(path)
            except KeyMynaError as error:
                raise KeyMynaError(str(error).replace(str(path), path.name)) from None

    def neighbours(self, heard: Heard, n: int) -> pd.DataFrame:
        """The n tracks whose embeddings are the most similar to a recording's, itself left out.

        Returns
        -------
        Indexed by track: title; key as the corpus has it; relation, of that key to the recording's estimated one;
        similarity, the cosine of the two embeddings. Empty for silence.
        """
        if heard.estimate.embedding is None:
            return pd.DataFrame(columns=["title", "key", "relation", "similarity"]).rename_axis("track")
        lengths = np.linalg.norm(self._embeddings, axis=1) * np.linalg.norm(heard.estimate.embedding)
        found = pd.Series(self._embeddings @ heard.estimate.embedding / lengths, index=self._tracks)
        found = found.drop(heard.track, errors="ignore").nlargest(n)
        keys = [self._key(track) for track in found.index]
        estimate = heard.estimate.key
        return pd.DataFrame(
            {
                "title": [self._corpus.manifest.loc[track, "title"] for track in found.index],
                "key": ["" if key is None else KEY_NAMES[key] for key in keys],
                "relation": [
                    "" if key is None or estimate is None else RELATIONS[int(relation(key, estimate))] for key in keys
                ],
                "similarity": found.to_numpy(),
            },
            index=found.index.rename("track"),
        )

    def spectrogram(self, heard: Heard, *, mask_ratio: float, seed: int) -> Figure:
        """What the encoder hears, and which patches of the window in the middle a mask of pre-training leaves.

        What is shorter than a window is repeated, as it is for the answer.
        """
        encoder = self._finder.encoder
        peak = max(float(np.abs(heard.audio).max()), 1e-6)
        stored = compress(power(heard.audio * (PEAK / peak), encoder.config.front_end)).float()
        frames = self._finder.frames
        if stored.shape[1] < frames:
            stored = stored.repeat(1, -(-frames // stored.shape[1]))[:, :frames]
        start = (stored.shape[1] - frames) // 2
        window = encoder.trim(stored[None, :, start : start + frames])
        masks = encoder.masks(window, mask_ratio, torch_stream(seed, "mask"))
        kept = []
        for i, branch in enumerate(encoder.branches):
            rows, columns = branch[0].grid(window)
            tokens = torch.full((rows * columns,), not masks)
            if masks:
                tokens[masks[i][0]] = True
            kept.append(tokens.reshape(rows, columns).numpy())
        centres = band_centres(encoder.config.front_end)
        return masked_spectrogram(stored.numpy(), centres, start, frames, kept, title=heard.name)

    def neighbour_map(self, heard: Heard, n: int) -> Figure:
        """The tracks in the plane of their two largest principal components, the n nearest joined to the recording.

        The nearest are those of `neighbours`, in all dimensions. Silence is nowhere.
        """
        middle = self._embeddings.mean(axis=0)
        axes = np.linalg.svd(self._embeddings - middle, full_matrices=False)[2][:2].T
        others = [i for i, track in enumerate(self._tracks) if track != heard.track]
        keys = [self._key(self._tracks[i]) for i in others]
        near = set(self.neighbours(heard, n).index)
        embedding = heard.estimate.embedding
        return neighbour_map(
            (self._embeddings[others] - middle) @ axes,
            [-1 if key is None else key for key in keys],
            [place for place, i in enumerate(others) if self._tracks[i] in near],
            None if embedding is None else (embedding - middle) @ axes,
            title=f"among {len(others)} tracks of the corpus",
        )

    def _of_samples(self, audio: np.ndarray, *, over_time: bool = False) -> Estimate:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "track.wav")
            soundfile.write(path, audio, SAMPLE_RATE, subtype="PCM_16")  # as corpora hold it
            return self._finder.estimate(path, over_time=over_time)

    def _key(self, track: str) -> int | None:
        key = int(self._corpus.manifest.loc[track, "key"])
        return key if 0 <= key < N_KEYS else None

    def _title(self, track: str) -> str:
        return f"{self._corpus.manifest.loc[track, 'title']} ({track})"


def some_tracks(corpus: Corpus, n: int, seed: int) -> list[str]:
    """n tracks of the corpus's test split, drawn at random, in the corpus's order; 0 for all."""
    tracks = corpus.tracks(split="test")
    drawn = set(numpy_stream(seed, "tracks").permutation(tracks)[: n or None].tolist())
    return [track for track in tracks if track in drawn]


class Panel:
    """Widgets to choose a recording with, to listen to it, and to see the answer; it plays nothing until one is chosen.

    Attributes
    ----------
    track, upload, path : a track of the corpus, a file to send, the path of a file.
    mask_ratio : of the mask that is drawn.
    answer : the answer in a line, or why there is none.
    player : the recording.
    pictures : by name.
    box : all of them, to be displayed.
    """

    def __init__(self, session: Session, *, n_neighbours: int, mask_ratio: float, seed: int):
        import ipywidgets as widgets  # here: a notebook that is executed by the runner shows none

        self._session, self._n_neighbours, self._seed = session, n_neighbours, seed
        self._heard: Heard | None = None
        titles = [(title, track) for track, title in session.titles.items()]
        self.track = widgets.Dropdown(options=[("a track of the corpus ...", ""), *titles], value="")
        # Jupyter's server takes no larger message, and says nothing to the sender.
        self.upload = widgets.FileUpload(description="or send a file of up to 10 MB", layout={"width": "auto"})
        self.path = widgets.Text(placeholder="or the path of a file, then Enter", continuous_update=False)
        self.mask_ratio = widgets.FloatSlider(
            mask_ratio, min=0.0, max=0.99, step=0.01, description="mask ratio", continuous_update=False
        )
        self.answer = widgets.HTML()
        self.player = widgets.Audio(autoplay=False, loop=False)
        self.table = widgets.HTML()
        self.pictures = {name: widgets.Image() for name in (SPECTROGRAM, CIRCLE, NEIGHBOURS, TIMELINE)}
        self.box = widgets.VBox(
            [
                widgets.HBox([self.track, self.upload, self.path]),
                self.answer,
                self.player,
                self.mask_ratio,
                self.pictures[SPECTROGRAM],
                widgets.HBox([self.pictures[CIRCLE], self.pictures[NEIGHBOURS]]),
                self.table,
                self.pictures[TIMELINE],
            ]
        )
        self._show(None)
        self.track.observe(self._take_track, "value")
        self.upload.observe(self._take_upload, "value")
        self.path.observe(self._take_path, "value")
        self.mask_ratio.observe(lambda change: self._draw_spectrogram(), "value")

    def _take_track(self, change: Mapping[str, Any]) -> None:
        if track := change["new"]:
            self.path.value = ""
            self._hear(self._session.of_track, track)

    def _take_upload(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            (file,) = change["new"]
            self.track.value, self.path.value, self.upload.value = "", "", ()  # the same file may come again
            self._hear(self._session.of_upload, file["name"], file["content"])

    def _take_path(self, change: Mapping[str, Any]) -> None:
        if path := change["new"].strip():
            self.track.value = ""
            self._hear(self._session.of_file, path)

    def _hear(self, way: Any, *what: Any) -> None:
        """Show what is heard, or why nothing is: one bad file is one line."""
        self.answer.value = "<i>listening ...</i>"
        try:
            self._show(way(*what))
        except KeyMynaError as error:
            self._show(None)
            self.answer.value = f"<b>{html.escape(str(error))}</b>"

    def _show(self, heard: Heard | None) -> None:
        self._heard = heard
        self.player.value = heard.wav() if heard else b""
        drawn: dict[str, Figure] = {}
        if heard and heard.estimate.unclear != SILENCE:
            drawn[CIRCLE] = circle_of_fifths(heard.estimate.probabilities)
            drawn[NEIGHBOURS] = self._session.neighbour_map(heard, self._n_neighbours)
        if heard and heard.estimate.timeline:
            drawn[TIMELINE] = key_timeline(heard.estimate.timeline)
        for name in (CIRCLE, NEIGHBOURS, TIMELINE):
            self._draw(name, drawn.get(name))
        found = self._session.neighbours(heard, self._n_neighbours) if heard else ()
        self.table.value = (
            found.to_html(index=False, float_format="{:.3f}".format, border=0, justify="left") if len(found) else ""
        )
        for widget in (self.player, self.mask_ratio):
            widget.layout.display = None if heard else "none"
        self._draw_spectrogram()
        self.answer.value = f"<b>{html.escape(heard.answer)}</b>" if heard else ""  # last: all of it is there

    def _draw_spectrogram(self) -> None:
        self._draw(
            SPECTROGRAM,
            self._session.spectrogram(self._heard, mask_ratio=self.mask_ratio.value, seed=self._seed)
            if self._heard
            else None,
        )

    def _draw(self, name: str, figure: Figure | None) -> None:
        """Put a picture in its place, or take it away."""
        image = io.BytesIO()
        if figure is not None:
            figure.savefig(image, format="png", dpi=80)
            plt.close(figure)
        self.pictures[name].value = image.getvalue()
        self.pictures[name].layout.display = None if figure else "none"
