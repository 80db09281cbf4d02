"""Production: what studios and carriers do to music, by style, as a plain description in JSON.

A chain is a list of effects in order, each a dict of "effect", a name in `effects.EFFECTS`, and its parameters:
[{"effect": "saturate", "drive": 3.0}, {"effect": "code", "format": "mp3", "level": 0.9}]. A production is a dict of

    "style"      the style it was drawn for
    "sidechain"  None or {"depth": dB, "release": s}: the kick drum ducks the pitched parts (`effects.duck`)
    "chain"      the effects that the mix goes through

`render` applies that of an arrangement to the whole piece, and that of a section to the section. How likely each effect
is, and how strong, is our choice after common practice in each style; the bounds are wide on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.sound.draws import uniform
from keymyna_lib.corpus.sound.effects import EFFECTS, length_at_speed
from keymyna_lib.corpus.sound.programmes import GUITARS, SUSTAINED

Range = tuple[float, float]

QUARTER_TONE = 50.0  # cents; beyond, another key is nearer than the one on the label


@dataclass(frozen=True, kw_only=True)
class Style:
    """How likely the effects are in a style; those that are not named here are as likely in all.

    guitar : drives of guitars [dB] (see `effects.saturate`); None leaves them clean.
    loudness : peaks taken down by the limiter [dB].
    squeeze : ratios of the mix's compressor.
    sidechain, sweep, vinyl, lofi : probabilities of ducking by the kick, of a gliding filter, of a turntable's speed
        with wow and surface noise, and of a narrow band with an old carrier's noise.
    """

    guitar: Range | None
    loudness: Range
    squeeze: Range
    sidechain: float
    sweep: float
    vinyl: float
    lofi: float


def _style(
    guitar: Range | None = None,
    loudness: Range = (2, 8),
    squeeze: Range = (1.5, 4),
    sidechain: float = 0.0,
    sweep: float = 0.02,
    vinyl: float = 0.1,
    lofi: float = 0.03,
) -> Style:
    return Style(
        guitar=guitar, loudness=loudness, squeeze=squeeze, sidechain=sidechain, sweep=sweep, vinyl=vinyl, lofi=lofi
    )


STYLES: dict[str, Style] = {
    "ambient": _style(loudness=(0, 4), sweep=0.25, sidechain=0.1),
    "ballad": _style(guitar=(-6, 14)),
    "blues": _style(guitar=(0, 20), loudness=(1, 6), vinyl=0.3, lofi=0.15),
    "classical": _style(loudness=(0, 2), squeeze=(1.1, 2), vinyl=0.15, lofi=0.05),
    "country": _style(guitar=(-8, 10), loudness=(1, 6)),
    "disco": _style(loudness=(1, 6), sidechain=0.1, sweep=0.05, vinyl=0.3),
    "folk": _style(loudness=(0, 5), vinyl=0.15),
    "funk": _style(guitar=(-8, 10), loudness=(1, 6), vinyl=0.2),
    "hiphop": _style(loudness=(3, 12), sidechain=0.15, sweep=0.1, vinyl=0.3, lofi=0.08),
    "house": _style(loudness=(3, 12), sidechain=0.6, sweep=0.35, vinyl=0.35),
    "jazz": _style(loudness=(0, 4), squeeze=(1.1, 2.5), vinyl=0.25, lofi=0.1),
    "latin": _style(loudness=(1, 7), vinyl=0.15),
    "metal": _style(guitar=(20, 40), loudness=(4, 14), squeeze=(2, 6)),
    "pop": _style(guitar=(-6, 20), loudness=(3, 12), sidechain=0.15, sweep=0.05),
    "punk": _style(guitar=(15, 34), loudness=(3, 12), squeeze=(2, 6), lofi=0.06),
    "reggae": _style(guitar=(-8, 4), loudness=(1, 6), vinyl=0.3),
    "rnb": _style(guitar=(-8, 8), loudness=(2, 10), sidechain=0.1),
    "rock": _style(guitar=(6, 30), loudness=(2, 10), squeeze=(1.5, 5)),
    "soul": _style(guitar=(-8, 10), loudness=(1, 6), vinyl=0.3, lofi=0.05),
    "techno": _style(loudness=(3, 14), sidechain=0.6, sweep=0.45, vinyl=0.3),
    "trance": _style(loudness=(3, 12), sidechain=0.7, sweep=0.35, vinyl=0.15),
    "drumandbass": _style(loudness=(3, 14), sidechain=0.4, sweep=0.25, vinyl=0.3),
}


def draw(style: str, rng: np.random.Generator, *, cents: float = QUARTER_TONE) -> dict:
    """Draw a production.

    Parameters
    ----------
    style : one of STYLES.
    rng : seeded by piece or section.
    cents : largest change of speed; 0 for a section, whose length must stay. With a tuning of the parts of its own
        (a section's "cents") it must be so much less than a quarter tone.

    Returns
    -------
    dict
        See the module; numbers are short, so that a manifest stays readable.

    Raises
    ------
    KeyMynaError
        When the style is unknown.
    """
    of = STYLES.get(style)
    if of is None:
        raise KeyMynaError(f"style {style!r}: expected one of {', '.join(STYLES)}.")
    chain = [_equaliser(rng)]
    if rng.random() < 0.8:
        chain.append(
            {
                "effect": "compress",
                "threshold": uniform(rng, (-12, 3)),
                "ratio": uniform(rng, of.squeeze),
                "attack": uniform(rng, (0.002, 0.04)),
                "release": uniform(rng, (0.05, 0.4)),
            }
        )
    if rng.random() < 0.3:
        chain.append({"effect": "saturate", "drive": uniform(rng, (-12, 0)), "bias": uniform(rng, (0, 0.3))})
    if rng.random() < of.sweep:
        chain.append(_sweep(rng))
    chain.append({"effect": "limit", "gain": uniform(rng, of.loudness)})
    if rng.random() < 0.08:
        chain.append({"effect": "clip", "gain": uniform(rng, (1, 6))})
    lofi = rng.random() < of.lofi
    if lofi:  # a telephone, a small radio, a shellac record
        chain.append({"effect": "band_limit", "low": uniform(rng, (80, 350)), "high": uniform(rng, (2800, 5500))})
    chain += _carrier(of, lofi, cents, rng)
    if rng.random() < 0.35:
        format, levels = [("mp3", (0.6, 0.97)), ("ogg", (0.5, 1.0))][rng.integers(2)]
        chain.append({"effect": "code", "format": format, "level": uniform(rng, levels)})
    sidechain = None
    if rng.random() < of.sidechain:
        sidechain = {"depth": uniform(rng, (3, 18)), "release": uniform(rng, (0.12, 0.4))}
    return {"style": style, "sidechain": sidechain, "chain": chain}


def draw_part(programme: int, style: str, rng: np.random.Generator) -> list[dict]:
    """Draw the chain of one part: guitars are driven where the style has it, pads and organs may get a chorus.

    Parameters
    ----------
    programme : of General MIDI, from 0.

    Returns
    -------
    list of dict
        A chain, for a section's "parts"; empty for a part that stays as it is.
    """
    of = STYLES.get(style)
    if of is None:
        raise KeyMynaError(f"style {style!r}: expected one of {', '.join(STYLES)}.")
    chain: list[dict] = []
    if programme in GUITARS and of.guitar:
        drive = uniform(rng, of.guitar)
        if drive > 0:
            # An amplifier is driven, and its loudspeaker passes little above 3 to 5 kHz.
            chain.append({"effect": "saturate", "drive": drive, "bias": uniform(rng, (0, 0.3))})
            chain.append({"effect": "band_limit", "low": 80.0, "high": uniform(rng, (2500, 5500))})
    wide = 0.5 if programme in SUSTAINED else 0.2 if programme in GUITARS else 0.05
    if rng.random() < wide:
        chain.append(
            {
                "effect": "chorus",
                "depth": uniform(rng, (0.3, 2)),
                "rate": uniform(rng, (0.2, 1.2)),
                "mix": uniform(rng, (0.3, 0.8)),
            }
        )
    return chain


def apply(audio: np.ndarray, chain: list[dict]) -> np.ndarray:
    """Run audio through a chain.

    Parameters
    ----------
    audio : (sample,) float32, 16 kHz.
    chain : see the module.

    Returns
    -------
    (sample,) float32, of the length that `length_after` tells.

    Raises
    ------
    KeyMynaError
        When an effect is unknown.
    """
    for step in chain:
        name = step["effect"]
        if name not in EFFECTS:
            raise KeyMynaError(f"effect {name!r}: expected one of {', '.join(EFFECTS)}.")
        audio = EFFECTS[name](audio, **{key: value for key, value in step.items() if key != "effect"})
    return audio


def length_after(n_samples: int, chain: list[dict]) -> int:
    """Samples that a chain makes of so many: only a change of speed changes them."""
    for step in chain:
        if step["effect"] == "play_at":
            n_samples = length_at_speed(n_samples, step["cents"])
    return n_samples


def speed(production: dict | None) -> float:
    """By how much a production raises the pitch [cents]."""
    return sum(step["cents"] for step in (production or {"chain": ()})["chain"] if step["effect"] == "play_at")


def _equaliser(rng: np.random.Generator) -> dict:
    """A tilt by two shelves, and up to two peaks."""
    bands: list[list] = [
        ["low", round(float(80 * 4 ** rng.uniform()), 1), uniform(rng, (-6, 6))],
        ["high", round(float(2000 * 2.5 ** rng.uniform()), 1), uniform(rng, (-9, 6))],
    ]
    for _ in range(rng.integers(3)):
        frequency = round(float(200 * 20 ** rng.uniform()), 1)
        bands.append(["peak", frequency, uniform(rng, (-6, 6)), uniform(rng, (0.7, 2))])
    return {"effect": "equalise", "bands": bands}


def _sweep(rng: np.random.Generator) -> dict:
    """Low passes down to the middle, high passes up to where the bass is gone, over 4 to 30 s."""
    kind = "lowpass" if rng.random() < 0.7 else "highpass"
    bounds = ((400, 1500), (4000, 7500)) if kind == "lowpass" else ((25, 60), (200, 700))
    low, high = (uniform(rng, b) for b in bounds)
    return {
        "effect": "sweep",
        "kind": kind,
        "low": low,
        "high": high,
        "period": uniform(rng, (4, 30)),
        "phase": uniform(rng, (0, 1)),
    }


def _carrier(of: Style, lofi: bool, cents: float, rng: np.random.Generator) -> list[dict]:
    """Speed, wow, hum and noise: of a turntable, of an old carrier, or of a pitch control alone."""
    chain: list[dict] = []
    vinyl = rng.random() < of.vinyl
    if vinyl or lofi or rng.random() < 0.2:
        change = uniform(rng, (-cents, cents))
        wow = uniform(rng, (0.5, 12 if lofi else 4)) if vinyl or lofi else 0.0
        if change or wow:
            chain.append(
                {
                    "effect": "play_at",
                    "cents": change,
                    "wow": wow,
                    "rate": round(float(rng.choice([0.556, 0.75, 1.3])), 3),  # 33 1/3, 45 and 78 turns a minute
                    "seed": int(rng.integers(2**32)),
                }
            )
    if vinyl or lofi or rng.random() < 0.15:
        snr = uniform(rng, (10, 30) if lofi else (25, 50))
        seed = int(rng.integers(2**32))
        chain.append({"effect": "hiss", "snr": snr, "colour": uniform(rng, (0, 1.5)), "seed": seed})
    if rng.random() < (0.3 if lofi else 0.05):
        chain.append({"effect": "hum", "frequency": float(rng.choice([50.0, 60.0])), "level": uniform(rng, (-50, -28))})
    return chain
