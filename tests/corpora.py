"""Small synthetic corpora for tests."""

from keymyna_lib.corpus.rendered.build import CorpusConfig

_SMALL = dict(
    n_chorales=4,
    n_tunes=8,
    seconds=7.0,
    scope="section",
    drum_probability=0.5,
    detune_cents=30.0,
    snr_db=(5.0, 30.0),
    seed=0,
)


def small_corpus(**changes) -> CorpusConfig:
    """The configuration of a dozen pieces of 7 s, with some fields changed."""
    return CorpusConfig(**_SMALL | changes)
