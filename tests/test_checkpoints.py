"""Checkpoints: what comes back is what went in, of this very run only, and nothing of the user's is removed."""

import pytest
import torch

from keymyna_lib.base import paths
from keymyna_lib.compute.checkpoints import read_checkpoint, save_checkpoint


def trained(steps):
    """A layer and its optimizer after some steps with momentum."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    go_on(layer, optimizer, range(steps))
    return layer, optimizer


def go_on(layer, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        layer(torch.full((1, 3), float(step))).square().sum().backward()
        optimizer.step()


def save(path, layer, optimizer, step=4):
    save_checkpoint(
        path, {"net": layer.state_dict()}, optimizer, fingerprint="a", step=step, history=[{"loss": 0.5, "step": 0}]
    )


def test_a_resumed_optimizer_goes_on_as_an_unbroken_one(tmp_path):
    unbroken, optimizer = trained(4)
    save(tmp_path / "c.safetensors", unbroken, optimizer)
    go_on(unbroken, optimizer, range(4, 9))
    found = read_checkpoint(tmp_path / "c.safetensors", "a")
    assert (found.step, found.history) == (4, [{"loss": 0.5, "step": 0}])
    resumed, optimizer = trained(0)
    resumed.load_state_dict(found.states["net"])
    found.restore_optimizer(optimizer)
    go_on(resumed, optimizer, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters()))
    # Without its moments the optimizer goes another way, so the comparison above can fail.
    resumed, optimizer = trained(0)
    resumed.load_state_dict(found.states["net"])
    go_on(resumed, optimizer, range(4, 9))
    assert not torch.equal(unbroken.weight, resumed.weight)


def test_another_run_and_an_absent_file_are_none(tmp_path):
    save(tmp_path / "c.safetensors", *trained(1))
    assert read_checkpoint(tmp_path / "c.safetensors", "b") is None
    assert read_checkpoint(tmp_path / "absent.safetensors", "a") is None
    assert (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("inside", [True, False])
def test_a_damaged_one_is_removed_from_the_cache_alone(tmp_path, monkeypatch, capsys, inside):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    path = tmp_path / ("cache" if inside else "mine") / "c.safetensors"
    path.parent.mkdir()
    save(path, *trained(1))
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    assert read_checkpoint(path, "a") is None
    assert "Starting from step 0" in capsys.readouterr().out
    assert path.exists() is not inside
