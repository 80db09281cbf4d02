"""The style of all figures is seaborn's theme, without seaborn; legends name what is drawn."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgba

from keymyna_lib.report import figures

OWN = {  # what is set on top of the theme
    *("figure.dpi", "savefig.dpi", "savefig.bbox", "pdf.fonttype", "figure.constrained_layout.use"),
    *("axes.spines.top", "axes.spines.right", "axes.titleweight", "axes.titlelocation", "legend.frameon"),
    "image.cmap",  # every figure names its own
}


def test_the_style_is_seaborns_theme():
    found = []
    for style in (lambda: sns.set_theme(context="notebook", style="ticks", font_scale=0.9), figures.use_style):
        with mpl.rc_context():
            mpl.rcdefaults()
            style()
            parameters = {name: value for name, value in mpl.rcParams.items() if name not in OWN}
            cycle = parameters.pop("axes.prop_cycle").by_key()["color"]
            found.append((parameters, [to_rgba(colour) for colour in cycle]))
    assert found[0] == found[1] and len(found[0][1]) == 10
    assert found[0][0]["axes.linewidth"] != mpl.rcParamsDefault["axes.linewidth"]


def test_the_legend_of_head_curves_names_features_of_any_head():
    systems = pd.DataFrame(
        [
            {"features": features, "head": head, "budget": budget, "n_train": 90, "weighted_both": 0.5}
            for features, head in (("mean mel", "one"), ("mean mel, LDA", "one"), ("mean mel", "two"))
            for budget in (48, 0)
        ]
        + [{"features": "template", "head": "bgate", "budget": None, "weighted_both": 0.6}]
    ).assign(low=0.4, high=0.7)
    figure = figures.head_curves(systems)
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["mean mel", "mean mel, LDA"]
    plt.close(figure)


def test_spectrograms_stand_in_rows_and_columns_on_one_scale():
    lengths = {("piece", "tune"): 40, ("section", "tune"): 90, ("section", "song"): 60}
    shown = {place: ("a name", np.full((n, 128), n / 10, np.float16)) for place, n in lengths.items()}
    figure = figures.spectrograms(shown)
    drawn = [axis.images for axis in figure.axes]
    assert [picture.get_array().shape for (picture,) in filter(None, drawn)] == [(128, 40), (128, 90), (128, 60)]
    assert not drawn[1] and not figure.axes[1].get_visible()  # no song of scope "piece"
    assert {picture.get_clim() for (picture,) in filter(None, drawn)} == {(0, 9)}
    plt.close(figure)
