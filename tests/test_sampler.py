"""Batches drawn on the device: they are what a plain re-statement draws, and only what is looked at is fetched."""

import numpy as np
import pytest
import torch
from store_stand_in import TRAIN, config, store, track_of
from test_draws import plain_words

from keymyna_lib.accelerated.draws import key_for
from keymyna_lib.accelerated.sampler import (
    DeviceSampler,
    FedSampler,
    ResidentFrames,
    frames_size,
    sampler_for,
    spans_of,
)
from keymyna_lib.model import PATCHES, EncoderConfig, Patchify, build_encoder, kept_tokens
from keymyna_lib.objectives import OBJECTIVES

CPU = torch.device("cpu")
DRAWS = dict(batch_size=7, views=2, crop_frames=20, crop_distance=0, seed=3)


def resident(corpus, **changes):
    frames = ResidentFrames(corpus, TRAIN, CPU)
    return DeviceSampler(frames.spans, frames.frames, **DRAWS | changes)


def fed(corpus, **changes):
    settings = dict(patch_sizes=PATCHES["vertical"], mask_ratio=0.5, n_frames=20) | DRAWS | changes
    return FedSampler(corpus, TRAIN, CPU, **settings)


def plain_step(corpus, step, *, batch_size, views, crop_frames, crop_distance, seed):
    """Tracks of a step, and of each view where its crops begin; drawn one by one."""
    tracks = []
    for place in range(step * batch_size, (step + 1) * batch_size):
        epoch, within = divmod(place, len(TRAIN))
        words = plain_words(key_for(seed, "order of tracks", epoch), 0, len(TRAIN))
        signed = [w - 2**64 if w >= 2**63 else w for w in words]
        tracks.append(sorted(range(len(TRAIN)), key=signed.__getitem__)[within])
    key = key_for(seed, "batch", step)
    first, near = plain_words(key, 1, batch_size), plain_words(key, 2, (views - 1) * batch_size)
    starts = np.zeros((views, batch_size), int)
    for row, track in enumerate(tracks):
        room = max(len(track_of(corpus, TRAIN[track])) - crop_frames, 0)
        starts[0, row] = ((first[row] >> 32) * (room + 1)) >> 32
        low, high = 0, room
        if crop_distance:
            low, high = max(starts[0, row] - crop_distance, 0), min(starts[0, row] + crop_distance, room)
        for view in range(1, views):
            word = near[(view - 1) * batch_size + row]
            starts[view, row] = low + (((word >> 32) * int(high - low + 1)) >> 32)
    return tracks, starts


@pytest.mark.parametrize("changes", [{}, {"crop_distance": 3}, {"views": 1}, {"crop_frames": 50, "batch_size": 9}])
def test_crops_are_those_of_a_plain_restatement(changes):
    corpus, settings = store(), DRAWS | changes
    sampler = resident(corpus, **changes)
    for step in (0, 1, 2, 11):
        sampler.prepare(step)
        tracks, starts = plain_step(corpus, step, **settings)
        assert sampler.tracks().tolist() == tracks
        assert sampler.keys(sampler.tracks()).tolist() == [track % 3 for track in tracks]
        crops = sampler.crops(sampler.tracks()).whole()
        n = settings["crop_frames"]
        for row, crop in enumerate(crops.unflatten(0, starts.shape).transpose(0, 1)):
            for view, start in zip(crop, starts[:, row]):
                cut = track_of(corpus, TRAIN[tracks[row]])[start : start + n]
                padded = np.concatenate([cut, np.zeros((n - len(cut), 128), np.float16)])
                assert torch.equal(view, torch.from_numpy(padded).T)


def test_an_epoch_takes_each_track_once():
    sampler, drawn = resident(store()), []
    for step in range(9):
        sampler.prepare(step)
        drawn += sampler.tracks().tolist()
    for epoch in np.split(np.array(drawn), 7):
        assert sorted(epoch) == list(range(9))
    assert drawn[:9] != drawn[9:18]


def test_a_step_draws_the_same_whatever_came_before():
    corpus = store()
    one, other = resident(corpus), resident(corpus)
    for step in range(6):
        one.prepare(step)
    other.prepare(5)
    assert torch.equal(one.tracks(), other.tracks()) and torch.equal(one.keep(0, 10, 0.5), other.keep(0, 10, 0.5))
    assert torch.equal(one.crops(one.tracks()).whole(), other.crops(other.tracks()).whole())


def test_second_crops_begin_near_the_first():
    sampler, distances = resident(store(40, 60), crop_distance=3), set()
    for step in range(60):
        sampler.prepare(step)
        first, second = sampler.crops(sampler.tracks()).begin.view(2, -1)
        distances |= set((first - second).abs().tolist())
    assert distances == {0, 1, 2, 3}


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("mask_ratio", [0.5, 0.9])
def test_kept_patches_are_those_of_the_whole_crops(patch, mask_ratio):
    corpus = store(80, 130)  # some shorter than a crop
    sampler = resident(corpus, crop_frames=98)
    sampler.prepare(4)
    crops = sampler.crops(sampler.tracks())
    whole = crops.whole()
    for branch, size in enumerate(PATCHES[patch]):
        rows, columns = crops.grid(size)
        keep = sampler.keep(branch, rows * columns, mask_ratio)
        assert keep.shape == (14, kept_tokens(rows * columns, mask_ratio))
        cut = whole[:, :, : columns * size[1]]
        assert (rows, columns) == Patchify(size).grid(cut)
        assert torch.equal(crops.patches(size, keep), Patchify(size)(cut, keep))


def test_kinds_of_patches_have_masks_of_their_own():
    sampler = resident(store())
    sampler.prepare(0)
    assert not torch.equal(sampler.keep(0, 10, 0.5), sampler.keep(1, 10, 0.5))


@pytest.mark.parametrize("patch, n_frames", [("vertical", 20), ("square", 16), ("hybrid", 16)])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.5])
def test_what_is_fed_is_what_is_resident(patch, n_frames, mask_ratio):
    corpus, sizes = store(), PATCHES[patch]
    here = resident(corpus)
    there = fed(corpus, patch_sizes=sizes, mask_ratio=mask_ratio, n_frames=n_frames)
    for step in (0, 1, 2, 3, 9, 4):  # forwards, ahead, and back as when resuming
        here.prepare(step)
        there.prepare(step)
        tracks = there.tracks()
        assert torch.equal(tracks, here.tracks()) and torch.equal(there.keys(tracks), here.keys(tracks))
        if mask_ratio == 0:
            assert torch.equal(there.crops(tracks).whole(), here.crops(tracks).whole()[:, :, :n_frames])
            continue
        for branch, size in enumerate(sizes):
            rows, columns = there.crops(tracks).grid(size)
            keep = there.keep(branch, rows * columns, mask_ratio)
            assert torch.equal(keep, here.keep(branch, rows * columns, mask_ratio))
            if size[0] == 128:  # columns are the same in the longer crop; of square patches rows would be longer
                assert torch.equal(there.crops(tracks).patches(size, keep), here.crops(tracks).patches(size, keep))
            else:
                cut = here.crops(tracks).whole()[:, :, :n_frames]
                assert torch.equal(there.crops(tracks).patches(size, keep), Patchify(size)(cut, keep))


def test_only_kept_frames_are_sent():
    sampler = fed(store(), mask_ratio=0.9, crop_frames=40, n_frames=40)
    sampler.prepare(0)
    assert sampler.crops(sampler.tracks()).frames.shape == (14 * 2 * 2, 128)  # two tokens of two frames


def test_the_store_lies_where_it_fits():
    corpus, settings = store(), config()
    encoder = build_encoder(EncoderConfig("vit-toy"), torch.Generator())
    objective = OBJECTIVES["contrastive"].from_config(settings, encoder, 9, torch.Generator())
    size = frames_size(corpus, TRAIN)
    assert size == sum(track_of(corpus, track).nbytes for track in TRAIN)

    def home(store_bytes):
        return type(sampler_for(settings, encoder, objective, corpus, TRAIN, CPU, store_bytes))

    assert home(size) is DeviceSampler and home(size - 1) is FedSampler


def test_spans_are_end_to_end():
    spans = spans_of(store(), TRAIN)
    assert spans.first.tolist() == [0, *spans.length.cumsum(0)[:-1].tolist()]
