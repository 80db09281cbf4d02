"""Text and trace of a table are built together."""

import pandas as pd
import pytest

from keymyna_lib.report.traced import TracedTable


def test_rows_keep_their_order_and_cells_name_their_runs():
    table = TracedTable(["head", "labels"])
    first, second = table.row("linear", "48 labels"), table.row("MLP, wide", 0)
    second.cell("score", "71.2", ["b", "a"])
    second.cell("seeds", 2)
    first.cell("interval", "[1, 2]", ["a"])
    assert list(table.frame) == table.columns == ["head", "labels", "interval", "score", "seeds"]
    assert table.frame.to_csv(index=False).splitlines()[1:] == ['linear,48 labels,"[1, 2]",,', '"MLP, wide",0,,71.2,2']
    assert table.cells == {"MLP, wide, 0 / score": ["b", "a"], "linear, 48 labels / interval": ["a"]}


def test_a_cell_that_no_run_is_behind_may_still_be_traced():
    table = TracedTable(["head"])
    table.row("linear").cell("score", "not run", [])
    assert table.cells == {"linear / score": []}


def test_a_row_needs_a_value_for_each_label():
    with pytest.raises(ValueError, match="shorter"):
        TracedTable(["head", "labels"]).row("linear")


def test_a_finished_table_is_traced_but_for_its_labels_or_where_it_says():
    frame = pd.DataFrame({"pieces": [3, 4], "source": ["tune", "chorale"], "hours": ["0.10", "0.20"]})
    table = TracedTable.of_runs(frame, ["source"], ["a"])
    pd.testing.assert_frame_equal(table.frame, frame)
    assert set(table.cells) == {f"{source} / {column}" for source in frame["source"] for column in ("pieces", "hours")}
    assert set(TracedTable.of_runs(frame, ["source"], ["a"], ["hours"]).cells) == {"tune / hours", "chorale / hours"}
    assert list(TracedTable.of_runs(frame[:0], ["source"], ["a"]).frame) == list(frame)
