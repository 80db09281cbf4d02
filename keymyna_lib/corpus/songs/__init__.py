"""Synthetic popular songs, whose key is known because they are composed in it.

`harmony` spells chords, `grammar` draws progressions, `styles` says what a style plays, `rhythm`, `lines` and `chords`
turn progressions into parts, `compose` makes whole songs of them, `arrange` gives them instruments and a sound, `card`
counts what came out. Start at `compose`. Imports `base`, `keys` and `corpus.sound`; `rendered.build` puts songs into a
corpus.

What counts as the key of a riff, a vamp, a loop or a blues follows the annotators of popular music: the key is the
tonic that melody and bass come to rest on, and its mode is that of the third above it.

- A blues on dominant sevenths is major, whatever blue notes the melody sings; one on minor triads or sevenths is minor.
- Mixolydian rock (I bVII IV) is major, dorian and phrygian are minor. De Clercq and Temperley ("A corpus analysis of
  rock harmony", Popular Music 30, 2011; Temperley and de Clercq, "Statistical analysis of harmony and melody in rock
  music", Journal of New Music Research 42, 2013) label a tonic and leave the mode open, since rock mixes the modes;
  labels that know two modes have only the third to go by.
- Power chords have no third: the scale of the melody and of the riff decides.
- A vamp of one or two chords is in the key of the chord that it starts from and returns to.
- A loop of the chords of one signature (i bVI bIII bVII, or vi IV I V) is minor where the melody rests on the minor
  tonic. Our choice: loops are composed as minor when they start on it or close on it, and no loop called major starts
  on vi.
"""
