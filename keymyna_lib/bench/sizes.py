"""What is measured, and how much of it: subjects, and sizes by name."""

from __future__ import annotations

from dataclasses import dataclass

SUBJECTS = ("step", "data", "embedding", "heads", "song", "growth")  # each a module of this package


@dataclass(frozen=True)
class Size:
    """What the cases are made of.

    Attributes
    ----------
    steps : (preset, batch size, mask ratio) of each pre-training step compared with the reference.
    gpu_steps : the same on a GPU, in bfloat16; the last one also from files on disk.
    presets : encoders; for each, the last of `steps` is also measured from files, in bfloat16 and by part.
    masks, masking_batch : mask ratios that the library's own step is compared at, and the batch size.
    tracks, seconds : of the corpus of noise that steps and embeddings read, and of each of its tracks.
    loader_workers : processes of the reference implementation's loader; its default is 4.
    product, gpu_product : side of the matrix product that is the ceiling.
    copy_mb : megabytes of the copy that is the ceiling of memory traffic.
    audio_seconds, formats : of the sound files that are decoded.
    embed_tracks : tracks that are embedded at a time.
    head_dim, head_rows : features, and rows that heads learn from.
    wide_widths : of grid B.
    linear_steps, hidden_steps, wide_steps : steps of one timing of each grid, the library's and the reference
        implementation's; enough of them that setting up counts for little.
    song_seconds : length of the song whose key is found.
    growth_batches, growth_frames, growth_tracks, growth_heads, growth_seconds : sizes on each growth axis.
    cap_mb : memory cap of the process that draws crops; 0 for none.
    store_mb : sizes of the stores that it draws from; the largest should be ten times the cap.
    """

    steps: tuple[tuple[str, int, float], ...]
    gpu_steps: tuple[tuple[str, int, float], ...]
    presets: tuple[str, ...]
    masks: tuple[float, ...]
    masking_batch: int
    tracks: int
    seconds: float
    loader_workers: int
    product: int
    gpu_product: int
    copy_mb: int
    audio_seconds: float
    formats: tuple[str, ...]
    embed_tracks: int
    head_dim: int
    head_rows: int
    wide_widths: tuple[int, ...]
    linear_steps: tuple[int, int]
    hidden_steps: tuple[int, int]
    wide_steps: tuple[int, int]
    song_seconds: float
    growth_batches: tuple[int, ...]
    growth_frames: tuple[int, ...]
    growth_tracks: tuple[int, ...]
    growth_heads: tuple[int, ...]
    growth_seconds: tuple[float, ...]
    cap_mb: int
    store_mb: tuple[int, ...]


SIZES = {
    "tiny": Size(
        steps=(("vit-toy", 8, 0.9),),
        gpu_steps=(("vit-toy", 8, 0.9),),
        presets=("vit-toy",),
        masks=(0.0, 0.9),
        masking_batch=4,
        tracks=20,
        seconds=8.0,
        loader_workers=0,
        product=128,
        gpu_product=256,
        copy_mb=4,
        audio_seconds=2.0,
        formats=("wav",),
        embed_tracks=2,
        head_dim=16,
        head_rows=256,
        wide_widths=(32, 64),
        linear_steps=(4, 1),
        hidden_steps=(2, 1),
        wide_steps=(2, 1),
        song_seconds=8.0,
        growth_batches=(4, 8),
        growth_frames=(98, 196),
        growth_tracks=(1, 2),
        growth_heads=(1, 4),
        growth_seconds=(4.0, 8.0),
        cap_mb=0,
        store_mb=(2, 8),
    ),
    "full": Size(
        steps=(
            *(("vit-s", batch, 0.9) for batch in (32, 64, 128)),
            *(("vit-xxs", batch, 0.9) for batch in (64, 512, 128)),
        ),
        gpu_steps=(
            ("vit-xxs", 128, 0.9),
            ("vit-s", 1024, 0.0),
            *(("vit-s", batch, 0.9) for batch in (256, 1024, 4096)),
        ),
        presets=("vit-s", "vit-xxs"),
        masks=(0.0, 0.5, 0.75, 0.9, 0.95),
        masking_batch=8,
        tracks=600,
        seconds=30.0,
        loader_workers=4,
        product=2048,
        gpu_product=8192,
        copy_mb=256,
        audio_seconds=30.0,
        formats=("wav", "flac", "mp3"),
        embed_tracks=16,
        head_dim=384,
        head_rows=8192,
        wide_widths=(1024, 2048, 4096, 8192),
        linear_steps=(300, 30),
        hidden_steps=(40, 10),
        wide_steps=(40, 8),
        song_seconds=120.0,
        growth_batches=(16, 32, 64, 128, 256, 512),
        growth_frames=(98, 196, 392, 784, 1568),
        growth_tracks=(1, 2, 4, 8, 16),
        growth_heads=(1, 4, 16, 64, 256),
        growth_seconds=(15.0, 30.0, 60.0, 120.0, 240.0),
        cap_mb=1024,
        store_mb=(1024, 3200, 10240),
    ),
}
