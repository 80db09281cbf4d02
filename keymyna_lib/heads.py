"""Heads on frozen features: the linear probe's and the wide MLP's grids, many heads trained side by side.

A head is a linear layer, or one or two hidden ReLU layers and a linear one, from window features to 24 keys.
Dropout acts on the (standardised) input of a linear head, and after the first hidden layer of an MLP, as in
the paper's wide heads. Where the sources do not say: ReLU, where dropout sits in the probe, and patience are
our choices.

Heads of one kind, shape, batch size and mixup form a stack, parameters (head, out, in), and a training step is one
pass over the stack. All heads of a stack see the same batches, and heads of one shape start from the same
weights and compare the same uniform draws with their own dropout probability. With such common random numbers
the points of a grid differ by their hyperparameters and not by luck, and a head's result does not depend on
its neighbours, except that a product of another size may add its terms in another order.

On a GPU the training rows lie there, the host draws which of them come next for many steps at a time, and a step is
recorded once and replayed without waiting for it. Rows, mixup and order of steps are those of a CPU; the draws of
dropout are the device's own.

Another kind of head is a subclass of `HeadSpec` with `logits` of its own (and `initial`, where its parameters are not
an MLP's), and an entry in `HEADS`. Batches, Adam, early stopping and selection are common to all.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from keymyna_lib.base import seeds
from keymyna_lib.base.checks import RANGES, Rule, check
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.base.tensors import HEAD, expect_floating, misfits, reading, save_tensors, shapes, some
from keymyna_lib.compute.recorded import Recorded
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.evaluate import mirex_scores, track_predictions
from keymyna_lib.keys import N_KEYS

# Heads of a stack, and bytes of their parameters, gradients and Adam's moments. On a CPU a stack stays in its cache
# from step to step, and the cores train one each; a GPU wants few large ones.
STACK_LIMITS = {"cpu": (32, 1 << 22), "cuda": (1024, 1 << 31)}
ACTIVATIONS = {"cpu": 1 << 21, "cuda": 1 << 26}  # hidden units held at once in a validation check
DRAWN_AHEAD = 256  # steps whose rows are sent to a GPU together
ADAM: dict[str, Any] = dict(amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, maximize=False)

_log = logging.getLogger(__name__)


def _kept(x: torch.Tensor) -> torch.Tensor:
    return x


def _at_most_two_widths(hidden: tuple[int, ...]) -> bool:
    return len(hidden) <= 2 and all(isinstance(width, int) and width > 0 for width in hidden)


@dataclass(frozen=True)
class HeadSpec:
    """One point of a grid, and what a head of its kind computes: here the linear head and the ReLU MLP.

    Attributes
    ----------
    hidden : widths of the hidden layers, none to two.
    dropout : probability in [0, 1), see above.
    lr, weight_decay : Adam's, the decay in the gradient (L2).
    batch_size : windows.
    standardize : z-score the features with the mean and deviation of the training rows.
    mixup : alpha of Beta(alpha, alpha), from which each row's share in a mix with another row of the batch is
        drawn, inputs and labels alike; 0 for none.
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    lr: float = 3e-4
    weight_decay: float = 0.0
    batch_size: int = 64
    standardize: bool = True
    mixup: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check(
            self,
            {
                "hidden": Rule(_at_most_two_widths, "at most two positive widths"),
                **{name: RANGES[name] for name in ("dropout", "lr", "weight_decay", "mixup")},
                "batch_size": Rule(lambda value: isinstance(value, int) and value > 0, "a positive int"),
                "standardize": Rule(lambda value: isinstance(value, bool), "True or False"),
            },
            of="head",
        )

    def initial(self, dim: int, seed: int) -> dict[str, np.ndarray]:
        """Parameters before training, float64: "weight.0" (out, in), "bias.0" (out,), ... by layer.

        Depends on nothing but the shape of the head and the seed.
        """
        layers = _initial(seed, [dim, *self.hidden, N_KEYS])
        return {
            f"{name}.{i}": value for i, layer in enumerate(layers) for name, value in zip(("weight", "bias"), layer)
        }

    def logits(
        self,
        parameters: Mapping[str, torch.Tensor],
        x: torch.Tensor,
        drop: Callable[[torch.Tensor], torch.Tensor] = _kept,
    ) -> torch.Tensor:
        """Outputs before the softmax, (..., row, 24).

        Parameters
        ----------
        parameters : those of `initial`, with the same leading axes as `x`: none, or one of heads side by side.
        x : (..., row, dim) standardised features.
        drop : dropout, to be applied once, to values of (..., row, unit): as many units as the first hidden layer has,
            or as there are features when there is none.
        """
        x = x if self.hidden else drop(x)
        for layer in range(len(self.hidden) + 1):
            x = x.relu_() if layer else x
            x = drop(x) if layer == 1 else x
            x = x @ parameters[f"weight.{layer}"].mT + parameters[f"bias.{layer}"][..., None, :]
        return x


HEADS: dict[str, type[HeadSpec]] = {"mlp": HeadSpec}  # by the name in a saved head; without one, "mlp"


@dataclass
class Rows:
    """Window features with labels: one row per window (with pitch-shift augmentation, per window and shift).

    Attributes
    ----------
    x : (row, dim) float, finite.
    y : (row,) int keys 0..23.
    track : (row,) int, 0..n_tracks-1.

    Arrays or tensors; kept as CPU tensors.

    Raises
    ------
    KeyMynaError
        When shapes do not fit, a feature is not finite, or a label or track is out of range.
    """

    x: torch.Tensor
    y: torch.Tensor
    track: torch.Tensor

    def __post_init__(self) -> None:
        self.x, self.y, self.track = (torch.as_tensor(v).cpu() for v in (self.x, self.y, self.track))
        n = len(self.x)
        if self.x.ndim != 2 or not n or self.y.shape != (n,) or self.track.shape != (n,):
            shapes = [tuple(v.shape) for v in (self.x, self.y, self.track)]
            raise KeyMynaError(f"rows of shapes {shapes}: expected x (row, dim), y and track (row,).")
        self.y, self.track = self.y.long(), self.track.long()
        if not torch.isfinite(self.x).all():
            bad = int((~torch.isfinite(self.x)).any(1).sum())
            raise KeyMynaError(
                f"{bad} of {n} feature rows hold NaN or infinity: look for a diverged encoder "
                "or damaged audio, and embed them again."
            )
        if self.y.min() < 0 or self.y.max() >= N_KEYS:
            raise KeyMynaError(f"labels from {self.y.min()} to {self.y.max()}: keys run from 0 to 23.")
        if self.track.min() < 0:
            raise KeyMynaError(f"track {self.track.min()}: tracks are numbered from 0.")


def linear_probe_grid(
    *,
    standardize: Sequence[bool] = (True, False),
    hidden: Sequence[Sequence[int]] = ((), (512,)),
    batch_sizes: Sequence[int] = (64, 256),
    lrs: Sequence[float] = (1e-5, 1e-4, 1e-3),
    dropouts: Sequence[float] = (0.25, 0.5, 0.75),
    weight_decays: Sequence[float] = (0.0, 1e-4, 1e-3),
) -> list[HeadSpec]:
    """The paper's linear probe: by default the JukeMIR grid.

    >>> len(linear_probe_grid()), len(linear_probe_grid(hidden=[()]))
    (216, 108)
    """
    return [
        HeadSpec(tuple(h), p, lr, wd, b, s)
        for s, h, b, lr, p, wd in product(standardize, hidden, batch_sizes, lrs, dropouts, weight_decays)
    ]


def wide_mlp_grid(
    *,
    widths: Sequence[int] = (1024, 2048, 4096, 8192),
    dropouts: Sequence[float] = (0.75, 0.9, 0.95, 0.99),
    depths: Sequence[int] = (1, 2),
    widest_pair: int = 4096,
    lr: float = 3e-4,
    weight_decay: float = 1e-4,
    batch_size: int = 64,
    mixup: float = 0.0,
) -> list[HeadSpec]:
    """The paper's wide MLP: by default the points of grid B, one layer, or two of equal width up to `widest_pair`.

    >>> len(wide_mlp_grid())
    28
    """
    return [
        HeadSpec((width,) * depth, p, lr, weight_decay, batch_size, True, mixup)
        for depth, width, p in product(depths, widths, dropouts)
        if depth == 1 or width <= widest_pair
    ]


@dataclass
class TrainedHead:
    """A head as it was at its best validation check.

    Attributes
    ----------
    parameters : by name, see `HeadSpec.initial`.
    mean, std : (dim,), applied to the features (0 and 1 when the spec does not standardise).
    valid_curve : (step, weighted score, loss) of every check until the head stopped; the score is on tracks with
        "both" fifths, the loss the mean cross-entropy of windows in nats.
    best_step, valid_score, valid_loss : of the best check; 0, -1 and infinity if there was none with a finite loss.
    """

    spec: HeadSpec
    parameters: dict[str, torch.Tensor]
    mean: torch.Tensor
    std: torch.Tensor
    valid_curve: list[tuple[int, float, float]] = field(default_factory=list)
    best_step: int = 0
    valid_score: float = -1.0
    valid_loss: float = float("inf")

    @torch.no_grad()
    def window_probabilities(self, x) -> np.ndarray:
        """Softmax outputs (row, 24) float for features (row, dim).

        Raises
        ------
        KeyMynaError
            When the features are of another width than those trained on.
        """
        x = torch.as_tensor(x).cpu().to(self.mean.dtype)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise KeyMynaError(
                f"features {tuple(x.shape)}: this head takes (row, {len(self.mean)}). Embed "
                "with the encoder that it was trained on."
            )
        x = (x - self.mean) / self.std
        return self.spec.logits(self.parameters, x).softmax(1).numpy()

    def predict(self, x, track) -> np.ndarray:
        """Mean softmax output of each track, (track, 24); x (row, dim), track (row,) in 0..n_tracks-1."""
        return track_predictions(self.window_probabilities(x), np.asarray(track))

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, the spec and the validation record in its metadata.

        Raises
        ------
        KeyMynaError
            When heads of this kind have no name in HEADS, by which to read them again.
        """
        save_tensors(path, self.tensors(), head=json.dumps(self.record()))

    @classmethod
    def load(cls, path: Path | str) -> TrainedHead:
        """Read what `save` wrote.

        Raises
        ------
        KeyMynaError
            When the file is absent, damaged, no head (an encoder, a checkpoint), or one of an unknown kind; when its
            shapes are not those of its spec, or a number is not finite.
        """
        remedy = "Give the head.safetensors of a run of notebook 20, 30 or 65."
        with reading(path, HEAD, remedy) as (tensors, metadata):
            if "head" not in metadata:
                raise KeyMynaError(f"{path} holds {some(tensors)}, and not the record of {HEAD}. {remedy}")
            return cls.recorded(json.loads(metadata["head"]), tensors, path, remedy)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it that is tensors: scaler and parameters, by name."""
        return {"mean": self.mean, "std": self.std, **self.parameters}

    def record(self) -> dict[str, Any]:
        """The rest of it, as JSON has it; errors as `save`."""
        kind = next((name for name, known in HEADS.items() if known is type(self.spec)), None)
        if kind is None:
            raise KeyMynaError(
                f"{type(self.spec).__name__} has no name in heads.HEADS; add it there to save its heads."
            )
        record: dict[str, Any] = {"spec": asdict(self.spec)}
        record |= {k: getattr(self, k) for k in ("valid_curve", "best_step", "valid_score", "valid_loss")}
        return record | ({} if type(self.spec) is HeadSpec else {"kind": kind})

    @classmethod
    def recorded(
        cls, record: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path | str, remedy: str
    ) -> TrainedHead:
        """The head of a `record` and its `tensors`; errors as `load`, which name the file and end in the remedy."""
        spec = record["spec"] = HEADS[record.pop("kind", "mlp")](**record["spec"])
        record["valid_curve"] = [tuple(check) for check in record["valid_curve"]]
        dim = tensors["mean"].shape[0]
        expected = {"mean": (dim,), "std": (dim,), **shapes(spec.initial(dim, 0))}
        if problems := misfits(shapes(tensors), expected, "head"):
            raise KeyMynaError(f"{path} does not fit its record: {some(problems)}. {remedy}")
        expect_floating(tensors, path, remedy)
        if len({value.dtype for value in tensors.values()}) > 1:
            raise KeyMynaError(f"{path} mixes tensors of different types. {remedy}")
        if not (tensors["std"] > 0).all():
            raise KeyMynaError(f"{path}: std holds values that are not positive. {remedy}")
        return cls(mean=tensors.pop("mean"), std=tensors.pop("std"), parameters=tensors, **record)


def select(heads: Sequence[TrainedHead]) -> TrainedHead:
    """The head with the best validation score ("both" fifths); ties are broken by validation loss, then by order."""
    return max(heads, key=lambda head: (head.valid_score, -head.valid_loss))


def _runs(specs: Sequence[HeadSpec], key: Callable[[HeadSpec], Any]) -> Iterator[tuple[Any, slice]]:
    """Consecutive specs that agree in something: what they agree in, and which they are."""
    for value, run in groupby(range(len(specs)), lambda i: key(specs[i])):
        run = list(run)
        yield value, slice(run[0], run[-1] + 1)


class _Drawn(NamedTuple):
    """Of a batch: rows (row,) int64; with mixup, each one's share (row, 1) float64 and the other row's place (row,)."""

    rows: np.ndarray
    share: np.ndarray | None
    other: np.ndarray | None


def _drawn(n_rows: int, spec: HeadSpec, seed: int) -> Iterator[_Drawn]:
    """Endless batches, cut from shuffled epochs."""
    shuffle = seeds.numpy_stream(seed, "batches", spec.batch_size)
    mix = seeds.numpy_stream(seed, "mixup", spec.batch_size, spec.mixup)
    waiting, share, other = np.empty(0, dtype=np.int64), None, None
    while True:
        while len(waiting) < spec.batch_size:
            waiting = np.concatenate([waiting, shuffle.permutation(n_rows)])
        rows, waiting = waiting[: spec.batch_size], waiting[spec.batch_size :]
        if spec.mixup:
            share, other = mix.beta(spec.mixup, spec.mixup, size=(len(rows), 1)), mix.permutation(len(rows))
        yield _Drawn(rows, share, other)


def _batch(
    x: torch.Tensor,
    y: torch.Tensor,
    one_hot: torch.Tensor,
    rows: torch.Tensor,
    share: torch.Tensor | None,
    other: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch that was drawn: x (row, dim) of one_hot's type, and labels as distributions (row, 24)."""
    x, target = x.index_select(0, rows).to(one_hot.dtype), one_hot[y[rows]]
    if share is None:
        return x, target
    return torch.lerp(x[other], x, share), torch.lerp(target[other], target, share)


def _batches(train: Rows, spec: HeadSpec, seed: int, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches, see `_batch`."""
    one_hot = torch.eye(N_KEYS, dtype=dtype)
    for drawn in _drawn(len(train.x), spec, seed):
        share, other = (None if draws is None else torch.from_numpy(draws) for draws in drawn[1:])
        share = None if share is None else share.to(dtype)
        yield _batch(train.x, train.y, one_hot, torch.from_numpy(drawn.rows), share, other)


def _initial(seed: int, sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight (out, in), bias (out,)) of each layer, uniform within 1/sqrt(in) as in torch.nn.Linear."""
    rng = seeds.numpy_stream(seed, "weights", *sizes)
    return [
        (rng.uniform(-1, 1, (n_out, n_in)) / n_in**0.5, rng.uniform(-1, 1, n_out) / n_in**0.5)
        for n_in, n_out in pairwise(sizes)
    ]


def _noise(seed: int, spec: HeadSpec, dim: int, device: str) -> Iterator[torch.Tensor]:
    """Endless uniform draws (row, unit); a unit drops out where its draw is below the probability."""
    generator = seeds.torch_stream(seed, "dropout", *spec.hidden, device=device)
    while True:
        yield torch.rand(spec.batch_size, (spec.hidden or (dim,))[0], generator=generator, device=device)


class _HostBatches:
    """The batches of `_batches` and the draws of `_noise`, one of each at a time.

    Attributes
    ----------
    noise : (row, unit), of the step that was prepared.
    """

    def __init__(self, train: Rows, spec: HeadSpec, seed: int, dtype: torch.dtype, device: str) -> None:
        self._batches, self._noise = _batches(train, spec, seed, dtype), _noise(seed, spec, train.x.shape[1], device)

    def prepare(self) -> None:
        """Make ready for a step."""
        self._batch, self.noise = next(self._batches), next(self._noise)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of the step, see `_batch`."""
        return self._batch


class _ResidentBatches:
    """The batches of `_batches` and the draws of `_noise` for a step that is recorded: all on the device.

    Parameters
    ----------
    x, y : of the training rows, on the device.
    spec, seed : as in `_batches`.
    one_hot : (24, 24), of the type that is computed in, on the device.

    Attributes
    ----------
    noise : (row, unit), of the step that was prepared.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, spec: HeadSpec, seed: int, one_hot: torch.Tensor) -> None:
        self._x, self._y, self._one_hot = x, y, one_hot
        self._waiting = _drawn(len(x), spec, seed)
        self._generator = seeds.torch_stream(seed, "dropout", *spec.hidden, device=x.device)
        self.noise = torch.empty(spec.batch_size, (spec.hidden or (x.shape[1],))[0], device=x.device)
        self._ahead: list[torch.Tensor] = []  # rows, shares and others, (step, ...) each
        self._next = torch.zeros(1, dtype=torch.int64, device=x.device)
        self._left = 0

    def prepare(self) -> None:
        """Make ready for a step, from the host."""
        if not self._left:
            steps = zip(*islice(self._waiting, DRAWN_AHEAD))
            drawn = [torch.from_numpy(np.stack(draws)) for draws in steps if draws[0] is not None]
            self._ahead = self._ahead or [
                torch.empty_like(
                    t, dtype=self._one_hot.dtype if t.is_floating_point() else t.dtype, device=self._x.device
                )
                for t in drawn
            ]
            for there, here in zip(self._ahead, drawn):
                there.copy_(here)
            self._next.zero_()
            self._left = DRAWN_AHEAD
        self._left -= 1
        self.noise.uniform_(generator=self._generator)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of the step, see `_batch`; nothing here depends on the host."""
        rows, *mixed = (draws.index_select(0, self._next)[0] for draws in self._ahead)
        self._next += 1
        return _batch(self._x, self._y, self._one_hot, rows, *(mixed or (None, None)))


class _Passes:
    """Forward and backward pass of heads of one kind and shape, side by side; gradients come from autograd.

    Parameters
    ----------
    specs : of the heads, alike except for dropout, learning rate, weight decay and scaling.
    parameters : by name, each (head, ...): the arrays of `HeadSpec.initial` with an axis for the heads in front.
    gradients : of the same names and shapes, filled by `backward`.
    mean, std : (head, dim), applied to the features.
    """

    def __init__(
        self,
        specs: Sequence[HeadSpec],
        parameters: Mapping[str, torch.Tensor],
        gradients: Mapping[str, torch.Tensor],
        mean: torch.Tensor,
        std: torch.Tensor,
    ) -> None:
        self.spec, self.parameters, self.gradients = specs[0], parameters, gradients
        self.mean, self.std = mean[:, None], std[:, None]
        self.dropout = mean.new_tensor([spec.dropout for spec in specs])[:, None, None]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(head, key, row) from features x (row, dim)."""
        return self.spec.logits(self.parameters, (x - self.mean) / self.std).mT

    def backward(self, x: torch.Tensor, target: torch.Tensor, noise: torch.Tensor) -> None:
        """Fill the gradients of the heads' mean cross-entropy: x (row, dim), target (row, 24), noise (row, unit)."""

        def drop(a: torch.Tensor) -> torch.Tensor:
            return a * (noise >= self.dropout) / (1 - self.dropout)

        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
            log_probability = self.spec.logits(leaves, (x - self.mean) / self.std, drop).log_softmax(-1)
            found = torch.autograd.grad(-(log_probability * target).sum() / len(x), list(leaves.values()))
        for gradient, value in zip(self.gradients.values(), found):
            gradient.copy_(value)


class _Input(NamedTuple):
    """Consecutive heads of a stack with the same input of the first layer, and views of that layer's tensors for them.

    scaler : mean and deviation (dim,), or None. dropout : of the input. units : rows of head x unit.
    weight, gradient : (head x unit, dim). bias : (head x unit, 1).
    """

    scaler: tuple[torch.Tensor, torch.Tensor] | None
    dropout: float
    units: slice
    weight: torch.Tensor
    bias: torch.Tensor
    gradient: torch.Tensor


def _zero_where_at_most(x: torch.Tensor, y: torch.Tensor, threshold: float, out: torch.Tensor) -> torch.Tensor:
    """x where y > threshold, else 0, all of one shape. The one kernel for it that does not branch at each number."""
    return torch.ops.aten.threshold_backward.grad_input(x, y, threshold, grad_input=out)


def _drop(x: torch.Tensor, noise: torch.Tensor, p: float, out: torch.Tensor) -> torch.Tensor:
    """x where the draw is p or more, else 0, not scaled."""
    return _zero_where_at_most(x, noise, float(np.nextafter(np.float32(p), np.float32(-1))), out)


class _MlpPasses:
    """`_Passes` of the ReLU MLP by hand: many small steps, where autograd's overhead would outweigh the arithmetic.

    Heads with the same input share one product, dropout's scale is applied where there is least to multiply, and
    gradients are written straight to where Adam reads them.
    """

    def __init__(
        self,
        specs: Sequence[HeadSpec],
        parameters: Mapping[str, torch.Tensor],
        gradients: Mapping[str, torch.Tensor],
        mean: torch.Tensor,
        std: torch.Tensor,
    ) -> None:
        self.linear = not specs[0].hidden
        self.parameters, self.gradients = list(parameters.values()), list(gradients.values())  # weight, bias by turns
        self.scale = mean.new_tensor([1 / (1 - s.dropout) for s in specs])[:, None, None]
        self.dropped = list(_runs(specs, lambda s: s.dropout))
        self.inputs = []
        weight, bias, gradient = (t.flatten(0, 1) for t in (*self.parameters[:2], self.gradients[0]))
        width = self.parameters[0].shape[1]
        for (standardize, p), run in _runs(specs, lambda s: (s.standardize, s.dropout if self.linear else 0.0)):
            scaler = (mean[run.start], std[run.start]) if standardize else None
            units = slice(run.start * width, run.stop * width)
            self.inputs.append(_Input(scaler, p, units, weight[units], bias[units, None], gradient[units]))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(head, key, row) from features x (row, dim)."""
        return self._forward(x)[1]

    def _forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[list, torch.Tensor]:
        """Each layer's input and logits (head, key, row); x (row, dim), noise (row, unit) while training.

        The input of the first layer is a list of (row, dim) and a factor for each of `inputs`, that of the others
        (head, unit, row).
        """
        weight = self.parameters[0]
        z, first, scaled = x.new_empty(weight.shape[0] * weight.shape[1], len(x)), [], None
        for part in self.inputs:
            if part.scaler is None:
                a = x
            else:
                a = scaled = (x - part.scaler[0]) / part.scaler[1] if scaled is None else scaled
            scale = 1.0
            if self.linear and noise is not None:
                a, scale = _drop(a, noise, part.dropout, torch.empty_like(a)), 1 / (1 - part.dropout)
            first.append((a, scale))
            torch.addmm(part.bias, part.weight, a.T, alpha=scale, out=z[part.units])
        z, inputs = z.view(*weight.shape[:2], len(x)), [first]
        for layer, (weight, bias) in enumerate(zip(self.parameters[2::2], self.parameters[3::2])):
            a, dropped = z.relu_(), layer == 0 and noise is not None
            if dropped:
                draws = noise.T.contiguous()
                for p, run in self.dropped:
                    _drop(a[run], draws.expand_as(a[run]), p, a[run])
            inputs.append(a)
            # Dropout's 1 / (1 - p) belongs to `a`; the layer's outputs are fewer.
            z = (
                torch.addcmul(bias[..., None], torch.bmm(weight, a), self.scale)
                if dropped
                else torch.baddbmm(bias[..., None], weight, a)
            )
        return inputs, z

    def backward(self, x: torch.Tensor, target: torch.Tensor, noise: torch.Tensor) -> None:
        """Fill the gradients of the heads' mean cross-entropy: x (row, dim), target (row, 24), noise (row, unit)."""
        inputs, logits = self._forward(x, noise)
        g = logits.softmax(1).sub_(target.T.contiguous()).div_(len(x))  # of the loss by the outputs of the layer
        for layer in range(len(inputs) - 1, 0, -1):
            a, weight = inputs[layer], self.parameters[2 * layer]
            torch.sum(g, 2, out=self.gradients[2 * layer + 1])
            g = g * self.scale if layer == 1 else g
            torch.bmm(g, a.mT, out=self.gradients[2 * layer])
            g = torch.bmm(weight.mT, g)
            _zero_where_at_most(g, a, 0, g)  # nothing through units at 0
        torch.sum(g, 2, out=self.gradients[1])
        for part, (a, scale) in zip(self.inputs, inputs[0]):
            torch.addmm(part.gradient, g.flatten(0, 1)[part.units], a, beta=0, alpha=scale, out=part.gradient)


class _Stack:
    """Heads trained side by side on the same batches: their parameters, Adam's state, and each one's best check."""

    def __init__(self, heads: list[TrainedHead], dim: int, seed: int, device: str, dtype: torch.dtype) -> None:
        self.heads, self.steps, self.count = heads, 0, torch.zeros((), device=device)
        self.stopped: set[int] = set()  # heads that are trained on, but no longer looked at
        self.mean = torch.stack([head.mean for head in heads]).to(device, dtype)
        self.std = torch.stack([head.std for head in heads]).to(device, dtype)
        tensors = {
            name: torch.from_numpy(value).to(device, dtype) for name, value in heads[0].spec.initial(dim, seed).items()
        }
        # All by name, (head, ...), as are Adam's two moments.
        self.parameters = {name: t.repeat(len(heads), *[1] * t.ndim) for name, t in tensors.items()}
        self.first, self.second = ({name: torch.zeros_like(t) for name, t in self.parameters.items()} for _ in range(2))
        self._arrange()

    def _arrange(self) -> None:
        """Set up the passes and their gradients, and find which heads share Adam's scalars."""
        specs = [head.spec for head in self.heads]
        gradients = {name: torch.empty_like(t) for name, t in self.parameters.items()}
        passes = _MlpPasses if type(specs[0]) is HeadSpec else _Passes
        self.passes = passes(specs, self.parameters, gradients, self.mean, self.std)
        self.groups: dict[tuple[float, float], list[list[torch.Tensor]]] = {}
        for scalars, run in _runs(specs, lambda s: (s.lr, s.weight_decay)):
            # Adam's arguments: parameters, gradients, two moments, the maxima of AMSGrad (none), counts of steps.
            group = self.groups.setdefault(scalars, [[], [], [], [], [], []])
            for tensors in zip(*(t.values() for t in (self.parameters, gradients, self.first, self.second))):
                for argument, tensor in zip(group, tensors):
                    argument.append(tensor[run])
                group[5].append(self.count)

    def keep(self, indices: list[int]) -> None:
        """Drop all heads but these, so that stopped ones cost nothing."""
        self.heads, self.stopped = [self.heads[i] for i in indices], set()
        for name in ("parameters", "first", "second"):
            setattr(self, name, {key: tensor[indices] for key, tensor in getattr(self, name).items()})
        self.mean, self.std = self.mean[indices], self.std[indices]
        if indices:
            self._arrange()

    def step(self, x: torch.Tensor, target: torch.Tensor, noise: torch.Tensor) -> None:
        """A step of Adam on the cross-entropy: x (row, dim), target (row, 24), noise (row, unit)."""
        self.passes.backward(x, target, noise)
        self.count += 1
        for (lr, weight_decay), tensors in self.groups.items():
            # The kernel behind torch.optim.Adam(fused=True), without its bookkeeping, which would cost more.
            torch._fused_adam_(*tensors, lr=lr, weight_decay=weight_decay, **ADAM)

    def check(
        self, x: torch.Tensor, y: torch.Tensor, track: torch.Tensor, labels: torch.Tensor, credit: torch.Tensor
    ) -> None:
        """Score every head on the validation rows; labels (track,), credit (reference, estimate).

        A head in `self.stopped` keeps what it has.
        """
        total, loss = x.new_zeros(len(labels), len(self.heads), N_KEYS), x.new_zeros(len(self.heads))
        n_units = len(self.heads) * max([*self.heads[0].spec.hidden, N_KEYS])
        for rows in torch.arange(len(x), device=x.device).split(max(1, ACTIVATIONS[x.device.type] // n_units)):
            log_probability = self.passes.logits(x[rows]).log_softmax(1)
            loss -= log_probability[:, y[rows], torch.arange(len(rows), device=x.device)].sum(1)
            total.index_add_(0, track[rows], log_probability.permute(2, 0, 1).exp())
        scores = credit[labels[:, None], total.argmax(-1)].mean(0).tolist()
        losses = (loss / len(x)).nan_to_num(nan=float("inf"), posinf=float("inf")).tolist()
        for i, (head, score, value) in enumerate(zip(self.heads, scores, losses)):
            if i in self.stopped:
                continue
            head.valid_curve.append((self.steps, score, value))
            # A head that has diverged names the first key for every track, which can score well.
            if math.isfinite(value) and (score, -value) > (head.valid_score, -head.valid_loss):
                head.best_step, head.valid_score, head.valid_loss = self.steps, score, value
                head.parameters = {name: tensor[i].clone() for name, tensor in self.parameters.items()}


def _stays_on_device(device: str) -> bool:
    """Whether training rows lie on the device, and steps are recorded there."""
    return torch.device(device).type == "cuda"


def _stacks(specs: Sequence[HeadSpec], dim: int, itemsize: int, device: str) -> Iterator[list[int]]:
    """Indices of the specs of each stack, those with a common input side by side, within STACK_LIMITS, evenly."""

    def shape(i):
        return type(specs[i]).__qualname__, specs[i].hidden, specs[i].batch_size, specs[i].mixup

    most, most_bytes = STACK_LIMITS[torch.device(device).type]
    order = sorted(
        range(len(specs)),
        key=lambda i: (shape(i), specs[i].standardize, specs[i].dropout, specs[i].lr, specs[i].weight_decay),
    )
    for (_, hidden, _, _), members in groupby(order, shape):
        members = list(members)
        sizes = [dim, *hidden, N_KEYS]
        bytes_each = 4 * itemsize * sum((a + 1) * b for a, b in pairwise(sizes))
        n = max(1, min(most, most_bytes // bytes_each))
        n = -(-len(members) // -(-len(members) // n))
        yield from (members[i : i + n] for i in range(0, len(members), n))


@torch.no_grad()
def train_heads(
    specs: Sequence[HeadSpec],
    train: Rows,
    valid: Rows,
    *,
    max_steps: int,
    eval_every: int,
    patience: int,
    seed: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> list[TrainedHead]:
    """Train every head of a grid.

    Parameters
    ----------
    specs : the grid, in any order; the result keeps it.
    train : rows to learn from, shuffled epoch after epoch, and to fit the scaler on.
    valid : rows of the tracks that early stopping and selection look at, each track of one key.
    max_steps : batches at most. eval_every : steps between checks (and one after the last step).
    patience : a head stops after that many checks in a row without a better weighted score, or the same with
        a smaller loss.
    seed : of weights, batches, mixup and dropout.

    Returns
    -------
    list of TrainedHead, on the CPU, one for each spec, as of its best check. A head whose validation loss was never
    finite is said (`logging`) and stays as it was before training: `select` takes no such head.

    Raises
    ------
    KeyMynaError
        No spec, features of another width in `valid`, windows of a track with different labels, a budget
        below 1, or heads all of which have diverged before their first check.
    """
    for name, value in dict(max_steps=max_steps, eval_every=eval_every, patience=patience).items():
        if value < 1:
            raise KeyMynaError(f"{name}={value}: must be 1 or more.")
    dim = train.x.shape[1]
    if not specs or valid.x.shape[1] != dim:
        raise KeyMynaError(
            f"{len(specs)} heads, {dim} training and {valid.x.shape[1]} validation features: "
            "expected at least one head, and the same features in both."
        )
    labels = torch.zeros(int(valid.track.max()) + 1, dtype=torch.int64).index_copy_(0, valid.track, valid.y)
    if not (labels[valid.track] == valid.y).all() or len(valid.track.unique()) != len(labels):
        raise KeyMynaError(
            "validation tracks must be numbered 0..n-1, each with windows of one and the same "
            "key: leave pitch-shifted views out of the validation rows."
        )

    pairs = np.divmod(np.arange(N_KEYS**2), N_KEYS)
    credit = torch.from_numpy(mirex_scores(*pairs, fifths="both")).view(N_KEYS, N_KEYS)
    checked = [t.to(device) for t in (valid.x.to(dtype), valid.y, valid.track, labels, credit)]
    std, mean = torch.std_mean(train.x.double(), 0, correction=0)
    std[std == 0] = 1  # a constant feature has nothing to scale
    scalers = {True: (mean, std), False: (torch.zeros_like(mean), torch.ones_like(std))}
    trained = [TrainedHead(spec, {}, *(t.to(dtype) for t in scalers[spec.standardize])) for spec in specs]
    stacks = list(_stacks(specs, dim, dtype.itemsize, device))

    resident = _stays_on_device(device)
    if resident:
        x, y, one_hot = train.x.to(device), train.y.to(device), torch.eye(N_KEYS, dtype=dtype, device=device)

    def train_stack(members: list[int]) -> None:
        spec = specs[members[0]]
        stack = _Stack([trained[i] for i in members], dim, seed, device, dtype)
        batches = (
            _ResidentBatches(x, y, spec, seed, one_hot) if resident else _HostBatches(train, spec, seed, dtype, device)
        )

        def take_step() -> None:
            stack.step(*batches.batch(), batches.noise)

        step = Recorded(take_step, torch.device(device))
        while stack.heads and not stopped.is_set():
            batches.prepare()
            step()
            stack.steps += 1
            if stack.steps % eval_every == 0 or stack.steps == max_steps:
                stack.check(*checked)
                going = [
                    i
                    for i, head in enumerate(stack.heads)
                    if stack.steps < max_steps and stack.steps - head.best_step < patience * eval_every
                ]
                # To record a step anew costs hundreds of steps, so that a few stopped heads may come along.
                if resident and 2 * len(going) > len(stack.heads):
                    stack.stopped = set(range(len(stack.heads))) - set(going)
                elif len(going) < len(stack.heads):
                    stack.keep(going)
                    step = Recorded(take_step, torch.device(device))
                shown.update((stack.steps - 1) % eval_every + 1)
        shown.update(max_steps - stack.steps)

    # Products of this size cost more to divide among cores than to do: each core has a stack of its own.
    workers = torch.get_num_threads() if device == "cpu" else 1
    stopped = threading.Event()
    with (
        bar(desc=f"{len(specs)} heads", total=max_steps * len(stacks), unit="step", show=progress) as shown,
        one_thread(),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            for _ in pool.map(train_stack, stacks[::-1]):  # the widest ones, which take longest, come first
                pass
        finally:
            stopped.set()
    diverged = [head for head in trained if not head.parameters]
    if diverged:
        spec = diverged[0].spec
        remedy = f"lower its learning rate (now {spec.lr:g}) or its weight decay (now {spec.weight_decay:g})."
        if len(diverged) == len(trained):
            raise KeyMynaError(f"a head's validation loss was never finite ({spec}): {remedy}")
        _log.warning(
            "%d of %d heads are out of the choice: their validation loss was never finite. For %s, %s",
            len(diverged),
            len(trained),
            spec,
            remedy,
        )
    for head in diverged:
        head.parameters = {
            name: torch.from_numpy(value).to(dtype) for name, value in head.spec.initial(dim, seed).items()
        }
    for head in trained:
        head.parameters = {name: tensor.cpu() for name, tensor in head.parameters.items()}
    return trained
