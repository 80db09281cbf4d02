"""Findings as HTML for the report page."""

import pytest

from keymyna_lib.run import said

TEXT = """## What we found

Before the list:
- One
  point with `a < b`, *so* **it is**.
- Another, see [notebook 20](20_linear_probe.ipynb) and [docs](../docs/speed.md).

After <script> & 3 * 4 * 5.

## Next

Nothing.
"""


@pytest.fixture
def sections(tmp_path):
    path = tmp_path / "10_a.md"
    path.write_text(TEXT)
    return said.sections(path)


def test_headings_divide_the_text(sections, tmp_path):
    assert list(sections) == ["What we found", "Next"] and sections["Next"] == "<p>Nothing.</p>"
    assert said.sections(tmp_path / "absent.md") == {}


def test_blocks_and_inline_marks(sections):
    assert sections["What we found"] == (
        "<p>Before the list:</p>\n<ul>\n<li>One\npoint with <code>a &lt; b</code>, <em>so</em> <strong>it is</strong>."
        '</li>\n<li>Another, see <a href="#nb-20_linear_probe">notebook 20</a> and docs.</li>\n</ul>\n'
        "<p>After &lt;script&gt; &amp; 3 * 4 * 5.</p>"
    )
