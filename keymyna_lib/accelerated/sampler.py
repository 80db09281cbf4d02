"""Batches for a GPU: tracks, crops and masks drawn on the device, and only what is looked at is fetched.

A masked step looks at a tenth of each crop. So the mask is drawn first, and with patches as high as the spectrogram
just the frames of kept patches are gathered. Frames come from one of two homes, and what is drawn is the same:

    ResidentFrames   all training tracks' spectrograms on the device, gathered there (DeviceSampler)
    the corpus       its memory maps; a thread gathers the next steps' frames into pinned memory (FedSampler)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.accelerated.draws import Draws, key_for
from keymyna_lib.corpus import store
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.front_ends import N_BANDS
from keymyna_lib.model import Encoder, kept_tokens
from keymyna_lib.objectives import Contrastive, Objective

if TYPE_CHECKING:
    from keymyna_lib.pretrain import PretrainConfig

_TRACKS, _FIRST, _NEAR, _MASKS = 0, 1, 2, 3  # purposes of draws; masks take one for each kind of patch from here on


@dataclass(frozen=True)
class Spans:
    """Where tracks lie, and their keys; all (track,) int64, on one device.

    first : frame at which the track begins, counted over all tracks.
    length : frames.
    keys : 0..23.
    """

    first: Tensor
    length: Tensor
    keys: Tensor

    def to(self, device: torch.device) -> Spans:
        return Spans(*(tensor.to(device) for tensor in (self.first, self.length, self.keys)))


class ResidentFrames:
    """Spectrograms of some tracks on a device, end to end.

    Parameters
    ----------
    corpus : its store.
    track_ids : the tracks.
    device : where to.
    """

    def __init__(self, corpus: Corpus, track_ids: Sequence[str], device: torch.device):
        table = _table(corpus, track_ids)
        spans = spans_of(corpus, track_ids)
        n_bands = N_BANDS[corpus.front_end]
        self.frames = torch.empty(int(spans.length.sum()), n_bands, dtype=torch.float16, device=device)
        for (shard, begin, n), place in zip(table, spans.first.tolist()):
            track = torch.from_numpy(np.array(corpus.frames[shard][begin : begin + n]))
            self.frames[place : place + n] = track.to(device)
        self.spans = spans.to(device)


def frames_size(corpus: Corpus, track_ids: Sequence[str]) -> int:
    """Bytes that the spectrograms of some tracks take."""
    return store.frame_bytes(corpus.front_end) * int(_table(corpus, track_ids)[:, 2].sum())


def spans_of(corpus: Corpus, track_ids: Sequence[str]) -> Spans:
    """Where some tracks lie when they are put end to end, and their keys; on the CPU."""
    length = torch.from_numpy(_table(corpus, track_ids)[:, 2].copy())
    keys = torch.tensor(corpus.manifest.loc[list(track_ids), "key"].tolist())
    return Spans(length.cumsum(0) - length, length, keys)


def _table(corpus: Corpus, track_ids: Sequence[str]) -> np.ndarray:
    return corpus.offsets.loc[list(track_ids), ["shard", "first_frame", "n_frames"]].to_numpy(np.int64)


def frames_of_tokens(keep: Tensor, width: int) -> Tensor:
    """(row, kept x width) int64: which frames of a crop the tokens `keep` (row, kept) cover, `width` each."""
    return (keep[:, :, None] * width + torch.arange(width, device=keep.device)).flatten(1)


def patches_of_frames(frames: Tensor, width: int) -> Tensor:
    """Frames of kept tokens (row, kept x width, band) as patches (row, kept, band x width)."""
    return frames.unflatten(1, (-1, width)).mT.flatten(2)


@dataclass(frozen=True)
class Crops:
    """Crops that have been drawn but not yet fetched; the leading axis runs over views, then tracks of the batch.

    frames : (frame, band) float16, what they are cut from.
    begin : (view x batch,) int64, frame at which the crop begins.
    there : (view x batch,) int64, frames of the crop that exist; those beyond are silence.
    n_frames : length of a crop.
    """

    frames: Tensor | None
    begin: Tensor
    there: Tensor
    n_frames: int

    def __len__(self) -> int:
        return len(self.begin)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of a size (bands, frames)."""
        return self.frames.shape[1] // size[0], self.n_frames // size[1]

    def whole(self) -> Tensor:
        """(view x batch, band, frame) float16: all frames of the crops."""
        return self._frames(torch.arange(self.n_frames, device=self.begin.device)[None]).mT

    def patches(self, size: tuple[int, int], keep: Tensor) -> Tensor:
        """Some patches of each crop, those of `model.Patchify` at the same indices.

        Parameters
        ----------
        size : bands and frames of a patch.
        keep : (view x batch, kept) int64, tokens; those of one row of patches (time) come first.

        Returns
        -------
        (view x batch, kept, band x frame of a patch) float16, frames varying fastest.
        """
        height, width = size
        _, columns = self.grid(size)
        n_bands = self.frames.shape[1]
        if height == n_bands:
            return patches_of_frames(self._frames(frames_of_tokens(keep, width)), width)
        time = (keep % columns * width)[:, :, None] + torch.arange(width, device=keep.device)
        band = (keep // columns * height)[:, :, None] + torch.arange(height, device=keep.device)
        place = self._places(time)[:, :, None, :] * n_bands + band[:, :, :, None]
        found = self.frames.view(-1)[place]
        return (found * self._exists(time)[:, :, None, :]).flatten(2)

    def _frames(self, time: Tensor) -> Tensor:
        """(view x batch, n, band): frames of the crops by their place in them (view x batch or 1, n)."""
        return self.frames[self._places(time)] * self._exists(time)[..., None]

    def _places(self, time: Tensor) -> Tensor:
        """Places among the frames; of what lies beyond a track's end, that of its last frame."""
        shape = (-1,) + (1,) * (time.ndim - 1)
        return self.begin.view(shape) + time.minimum(self.there.view(shape) - 1)

    def _exists(self, time: Tensor) -> Tensor:
        return time < self.there.view((-1,) + (1,) * (time.ndim - 1))


class DeviceSampler:
    """Draws steps' batches on a device, from (seed, step) alone.

    Each track comes once an epoch, and epochs run on across steps. The first view's crop begins anywhere in its track,
    further ones within `crop_distance` frames of it (0 for anywhere).

    Parameters
    ----------
    spans : where the tracks lie, on the device; its order is that of the tracks' numbers.
    frames : (frame, band) float16, the tracks end to end; None when only the draws are wanted.
    batch_size : tracks a step, at most as many as there are.
    views : crops of each track.
    crop_frames : frames of a crop; shorter tracks are followed by silence.
    crop_distance : see above.
    seed : of everything that is drawn.
    """

    def __init__(
        self,
        spans: Spans,
        frames: Tensor | None,
        *,
        batch_size: int,
        views: int,
        crop_frames: int,
        crop_distance: int,
        seed: int,
    ):
        self.spans, self.frames, self.batch_size, self.views, self.seed = spans, frames, batch_size, views, seed
        self.crop_frames, self.crop_distance = crop_frames, crop_distance
        self.device = device = spans.first.device
        n_tracks = len(spans.first)
        self.draws = Draws(torch.zeros((), dtype=torch.int64, device=device))
        # What the step needs of its epoch: the order of this one and the next, and how far this one has got.
        self._orders = torch.zeros(2 * n_tracks, dtype=torch.int64, device=device)
        self._done = torch.zeros((), dtype=torch.int64, device=device)
        self._epoch = -1

    def prepare(self, step: int) -> None:
        """Make ready for a step, without waiting for the device: everything drawn afterwards is of this step."""
        n_tracks = len(self.spans.first)
        epoch, done = divmod(step * self.batch_size, n_tracks)
        self.draws.key.fill_(key_for(self.seed, "batch", step))
        self._done.fill_(done)
        if epoch != self._epoch:
            for order, which in zip(self._orders.split(n_tracks), (epoch, epoch + 1)):
                key = torch.full((), key_for(self.seed, "order of tracks", which), device=order.device)
                order.copy_(Draws(key).order(_TRACKS, n_tracks))
            self._epoch = epoch

    def tracks(self) -> Tensor:
        """(batch,) int64: the tracks of the step."""
        return self._orders[self._done + torch.arange(self.batch_size, device=self._orders.device)]

    def keys(self, tracks: Tensor) -> Tensor:
        """(batch,) int64: their musical keys."""
        return self.spans.keys[tracks]

    def crops(self, tracks: Tensor) -> Crops:
        """Crops of some tracks."""
        first, length = self.spans.first[tracks], self.spans.length[tracks]
        room = (length - self.crop_frames).clamp(min=0)
        starts = [self.draws.below(_FIRST, room + 1)]
        low, high = torch.zeros_like(room), room
        if self.crop_distance:
            low = (starts[0] - self.crop_distance).clamp(min=0)
            high = (starts[0] + self.crop_distance).minimum(room)
        span = (high - low + 1).expand(self.views - 1, -1)
        further = low + self.draws.below(_NEAR, span)
        begin = first + torch.cat([starts[0][None], further])
        there = length.clamp(max=self.crop_frames).expand_as(begin)
        return Crops(self.frames, begin.flatten(), there.flatten(), self.crop_frames)

    def keep(self, branch: int, n_tokens: int, mask_ratio: float) -> Tensor:
        """(view x batch, kept) int64: tokens that survive masking, drawn uniformly for each crop of the step.

        Parameters
        ----------
        branch : place of the kind of patches among the encoder's, as each has its own mask.
        n_tokens, mask_ratio : as in `model.kept_tokens`.
        """
        rows = self.views * self.batch_size
        return self.draws.subsets(_MASKS + branch, rows, n_tokens, kept_tokens(n_tokens, mask_ratio))


@dataclass(frozen=True)
class _KeptFrames(Crops):
    """Crops of which only the frames of kept tokens have been fetched: (view x batch x kept x width, band)."""

    def patches(self, size: tuple[int, int], keep: Tensor) -> Tensor:
        return patches_of_frames(self.frames.unflatten(0, (len(keep), -1)), size[1])


STORE_SHARE = 0.5  # of the device's free memory, for spectrograms; the rest is for the step


def sampler_for(
    config: PretrainConfig,
    encoder: Encoder,
    objective: Objective,
    corpus: Corpus,
    track_ids: Sequence[str],
    device: torch.device,
    store_bytes: int | None = None,
) -> DeviceSampler:
    """The sampler of a run: with the store on the device when that fits in `store_bytes`, else fed from the corpus.

    Parameters
    ----------
    config : says how crops are drawn.
    encoder, objective : say what is looked at.
    store_bytes : None for STORE_SHARE of the device's free memory.
    """
    draws = dict(
        batch_size=config.batch_size,
        views=objective.views,
        crop_frames=config.crop_frames,
        crop_distance=config.crop_distance,
        seed=config.seed,
    )
    if store_bytes is None:
        store_bytes = int(STORE_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
    if frames_size(corpus, track_ids) <= store_bytes:
        store = ResidentFrames(corpus, track_ids, device)
        return DeviceSampler(store.spans, store.frames, **draws)
    return FedSampler(
        corpus,
        track_ids,
        device,
        patch_sizes=[branch[0].size for branch in encoder.branches],
        mask_ratio=objective.mask_ratio if masks_before_looking(objective) else 0.0,
        n_frames=encoder.trim(torch.empty(1, encoder.config.n_bands, config.crop_frames)).shape[2],
        **draws,
    )


def masks_before_looking(objective: Objective) -> bool:
    """Whether only kept patches are looked at: with masking, and no augmentation of the whole crop before it."""
    return isinstance(objective, Contrastive) and objective.mask_ratio > 0 and objective.augmentation == "none"


class FedSampler(DeviceSampler):
    """A `DeviceSampler` for a store that does not fit on the device: frames are gathered on the host and sent.

    A thread draws the steps to come once more on the host, gathers from the memory maps what they look at into pinned
    memory, and `prepare` sends it off.

    Parameters
    ----------
    corpus, track_ids : the store.
    device : where batches go.
    patch_sizes : of the encoder (bands, frames).
    mask_ratio : share of the tokens that are not looked at.
    n_frames : frames of a crop that the encoder looks at, at most `crop_frames`.
    draws : the parameters of `DeviceSampler` from `batch_size` on.
    """

    AHEAD = 3  # steps that are made ready before they are wanted

    def __init__(
        self,
        corpus: Corpus,
        track_ids: Sequence[str],
        device: torch.device,
        *,
        patch_sizes: Sequence[tuple[int, int]],
        mask_ratio: float,
        n_frames: int,
        **draws: int,
    ):
        spans = spans_of(corpus, track_ids)
        super().__init__(spans.to(device), None, **draws)
        self._host = DeviceSampler(spans, None, **draws)
        self._maps, self._table = corpus.frames, _table(corpus, track_ids)
        self._mask_ratio, self._n_frames, self._width = mask_ratio, n_frames, patch_sizes[0][1]
        # Of other patches than full-height ones, those that are kept cover most frames of a crop.
        n_bands = N_BANDS[corpus.front_end]
        self._only_kept = mask_ratio > 0 and len(patch_sizes) == 1 and patch_sizes[0][0] == n_bands
        n_looked_at = self._width * kept_tokens(n_frames // self._width, mask_ratio) if self._only_kept else n_frames
        shape = (self.views * self.batch_size, n_looked_at, n_bands)
        self._slots = [
            torch.empty(shape, dtype=torch.float16, pin_memory=device.type == "cuda") for _ in range(self.AHEAD + 1)
        ]
        self._sent: list[torch.cuda.Event | None] = [None] * len(self._slots)
        self._filled = 0
        self._here = torch.empty(shape, dtype=torch.float16, device=device)
        self._thread, self._made = ThreadPoolExecutor(1, "crops"), {}

    def prepare(self, step: int) -> None:
        """As `DeviceSampler.prepare`; waits only when the thread is late."""
        super().prepare(step)
        soon = range(step, step + self.AHEAD)
        self._made = {ahead: future for ahead, future in self._made.items() if ahead in soon}
        for ahead in soon:
            if ahead not in self._made:
                self._made[ahead] = self._thread.submit(self._fill, ahead)
        slot = self._made.pop(step).result()
        self._here.copy_(self._slots[slot], non_blocking=True)
        if self.device.type == "cuda":
            self._sent[slot] = torch.cuda.Event()
            self._sent[slot].record()

    def crops(self, tracks: Tensor) -> Crops:
        """Crops of the step's tracks."""
        rows, n_frames, _ = self._here.shape
        begin = torch.arange(rows, device=self.device) * n_frames
        there = torch.full_like(begin, self._n_frames)  # silence is among what was sent
        kind = _KeptFrames if self._only_kept else Crops
        return kind(self._here.flatten(0, 1), begin, there, self._n_frames)

    def _fill(self, step: int) -> int:
        """In the thread: gather what a step looks at into the next slot, whose number is returned."""
        slot = self._filled % len(self._slots)
        self._filled += 1
        if self._sent[slot] is not None:
            self._sent[slot].synchronize()
        host = self._host
        host.prepare(step)
        tracks = host.tracks()
        crops = host.crops(tracks)
        if self._only_kept:
            time = frames_of_tokens(host.keep(0, self._n_frames // self._width, self._mask_ratio), self._width)
        else:
            time = torch.arange(self._n_frames).expand(len(crops), -1)
        tracks, target = tracks.repeat(self.views), self._slots[slot].numpy()
        places = (crops.begin - host.spans.first[tracks])[:, None] + time.minimum(crops.there[:, None] - 1)
        shards, first, _ = self._table[tracks.numpy()].T
        places = places.numpy() + first[:, None]
        order = shards.argsort(kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            target[rows] = self._maps[shards[rows[0]]][places[rows]]
        target[(time >= crops.there[:, None]).numpy()] = 0
        return slot
