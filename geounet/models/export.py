"""Models for other programs: ONNX and torch.export, written only when they give what the bundle gives.

ONNX (https://onnx.ai) runs without torch; a `.pt2` file (https://docs.pytorch.org/docs/stable/export.html) without this
package and smp. Both hold the card, take any number of tiles, and return logits or probabilities.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geounet.atomic import atomic, make_folder
from geounet.errors import GeounetError, JobError, ModelError, OutputExistsError, first_line
from geounet.models.members import stride_of
from geounet.models.network import load

if TYPE_CHECKING:
    from geounet.config.card import InputSpec
    from geounet.models.bundle import Bundle

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference between the bundle's and the file's results: of probabilities, or of logits over their range.

Other kernels round elsewhere. Measured for one network of each kind in the table: 0 for `.pt2`, below 4e-6 for ONNX; a
normalisation that is 1 % off: above 0.001.
"""

INPUT = "image"
CARD_KEY = "geounet.card"
"""Metadata of an ONNX file, and with `.json` a file in a `.pt2`: the card as JSON."""

_MOST_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    tile: int
    """Side of a tile, px. The number of tiles is free."""
    normalised: bool
    """Whether the file takes values as they are in scenes and normalises them itself."""
    output: str
    """`logits` or `probabilities`."""
    difference: float
    """From the bundle's own results on random tiles; see `TOLERANCE`."""


class Whole(nn.Module):
    """A bundle's network, or the mean of an ensemble's, with normalisation and activation if asked.

    Parameters
    ----------
    bundle
        The model.
    normalise
        Take values as they are in scenes; otherwise normalised as the card says.
    activate
        Return probabilities instead of logits. An ensemble has no logits.
    """

    def __init__(self, bundle: Bundle, *, normalise: bool, activate: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(load(part) for part in bundle.parts)
        self.activate = activate
        self.sigmoid = bundle.card.activation == "sigmoid"
        given = None if normalise else bundle.card.input
        for k, part in enumerate(bundle.parts):
            factor, offset = _scaling(given, part.card.input)
            self.register_buffer(f"factor{k}", factor)
            self.register_buffer(f"offset{k}", offset)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return `(n, classes, rows, cols)` of `(n, bands, rows, cols)`, float32 both."""
        total: torch.Tensor | None = None
        for k, network in enumerate(self.networks):
            result = network(image * getattr(self, f"factor{k}") + getattr(self, f"offset{k}"))
            if self.activate:
                result = result.sigmoid() if self.sigmoid else result.softmax(dim=1)
            total = result if total is None else total + result
        assert total is not None
        return total / len(self.networks) if len(self.networks) > 1 else total


def _scaling(given: InputSpec | None, wanted: InputSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factor and offset `(1, bands, 1, 1)` from values (normalised as `given`, if not None) to `wanted`."""
    pairs = [(s.mean, s.stddev) for s in wanted.value_scaling]
    before = [(0.0, 1.0)] * len(pairs) if given is None else [(s.mean, s.stddev) for s in given.value_scaling]
    factor = torch.tensor([b / d for (_, b), (_, d) in zip(before, pairs, strict=True)])
    offset = torch.tensor([(a - c) / d for (a, _), (c, d) in zip(before, pairs, strict=True)])
    return factor[None, :, None, None], offset[None, :, None, None]


def export_model(
    bundle: Bundle,
    out: Path,
    *,
    tile: int | None = None,
    normalise: bool = False,
    probabilities: bool = False,
    opset: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model for other programs, after checking that the file gives the bundle's results.

    Parameters
    ----------
    bundle
        The model. An ensemble becomes one file that returns its mean probabilities.
    out
        `.onnx` or `.pt2`.
    tile
        Side of a tile, px; the card's where None. A network with valid convolutions mirrors the tile at its edges.
    normalise
        The file takes values as they are in scenes and normalises them itself.
    probabilities
        The file ends in softmax or sigmoid.
    opset
        Of ONNX; torch's choice where None.
    overwrite
        Replace an existing file.

    Raises
    ------
    JobError
        If the ending is neither, or the network does not take the tile.
    OutputExistsError
        If the file exists and `overwrite` is false.
    ModelError
        If packages are missing, the network cannot be exported, or the results differ; nothing is written then.
    GeounetError
        If the folder cannot be written.
    """
    writers: dict[str, Callable[..., Callable[[torch.Tensor], torch.Tensor]]] = {".onnx": _onnx, ".pt2": _pt2}
    if out.suffix.lower() not in writers:
        raise JobError(f"{out}: expected a file that ends in {' or '.join(writers)}")
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out}: exists already; choose another name or ask to overwrite it")
    if out.suffix.lower() == ".onnx":
        _check_packages(bundle)
    side = _tile(bundle, tile)
    activate = probabilities or bool(bundle.members)
    module = Whole(bundle, normalise=normalise, activate=activate).eval().requires_grad_(False)
    output = "probabilities" if activate else "logits"
    metadata = {
        CARD_KEY: bundle.card.model_dump_json(),
        "geounet.sha256": bundle.sha256,
        "geounet.normalised": str(normalise).lower(),
        "geounet.classes": ",".join(c.name for c in bundle.card.classes),
        "geounet.bands": ",".join(bundle.card.input.bands),
    }
    make_folder(out.parent)
    with atomic(out) as temporary:
        # Exporters' own words for a folder that cannot be written do not say so.
        try:
            temporary.touch()
        except OSError as error:
            raise GeounetError(f"{out}: cannot be written ({error.strerror}); choose another folder") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of exporters about themselves
                run = writers[out.suffix.lower()](module, _noise(bundle, 2, side, normalise), temporary, output,
                                                  metadata, opset)  # fmt: skip
                difference = max(
                    _difference(module, run, _noise(bundle, n, side, normalise, seed=n), activate) for n in (1, 3)
                )
        except ModelError:
            raise
        except Exception as error:  # exporters raise their own kinds, from many libraries
            raise ModelError(
                f"{bundle.card.name}: {bundle.card.network} cannot be exported as {out.suffix}: {first_line(error)}"
            ) from error
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{bundle.card.name}: the exported network differs from the bundle's by {difference:.2g} on random "
                f"tiles, more than {TOLERANCE:g}; {out} is not written"
            )
    logger.info("%s: differs from the bundle's results by %.2g on random tiles", out, difference)
    return Exported(out, side, normalise, output, difference)


def _check_packages(bundle: Bundle) -> None:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"export to ONNX needs {', '.join(missing)}, not installed here: pip install 'geounet[export]'; "
            "a .pt2 file needs nothing else"
        )
    if bundle.size > _MOST_BYTES:
        raise ModelError(f"{bundle.card.name}: {bundle.size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB")


def _tile(bundle: Bundle, wanted: int | None) -> int:
    spec, multiple = bundle.card.tile, stride_of(bundle)
    side = spec.size if wanted is None else wanted
    if spec.fixed and side != spec.size:
        raise JobError(f"--tile: {bundle.card.name} takes tiles of {spec.size} px only, found {side}")
    if side % multiple:
        raise JobError(f"--tile: expected a multiple of {multiple} px for {bundle.card.network}, found {side}")
    return side


def _noise(bundle: Bundle, n: int, side: int, raw: bool, seed: int = 0) -> torch.Tensor:
    """Return random tiles `(n, bands, side, side)`: normal, or with the card's mean and deviation if `raw`."""
    scaling = bundle.card.input.value_scaling
    x = torch.randn((n, len(scaling), side, side), generator=torch.Generator().manual_seed(seed))
    if raw:
        mean, stddev = (torch.tensor([getattr(s, key) for s in scaling])[:, None, None] for key in ("mean", "stddev"))
        x = x * stddev + mean
    return x


@torch.no_grad()
def _difference(
    module: nn.Module, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, activate: bool
) -> float:
    expected, found = module(x), run(x)
    if found.shape != expected.shape:
        raise ModelError(f"the exported network returned {tuple(found.shape)}, expected {tuple(expected.shape)}")
    scale = 1.0 if activate else float(expected.amax() - expected.amin()) + 1e-30
    return float((found - expected).abs().amax()) / scale


def _pt2(
    module: nn.Module, example: torch.Tensor, path: Path, output: str, metadata: Mapping[str, str], opset: int | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Write a `.pt2` and return what runs it."""
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={f"{key}.json" if key == CARD_KEY else key: text
                                                  for key, text in metadata.items()})  # fmt: skip
    loaded: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(path).module()
    return loaded


def _onnx(
    module: nn.Module, example: torch.Tensor, path: Path, output: str, metadata: Mapping[str, str], opset: int | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Write an ONNX file and return what runs it."""
    import onnxruntime

    program: Any = torch.onnx.export(
        module,
        (example,),
        input_names=[INPUT],
        output_names=[output],
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(x: torch.Tensor) -> torch.Tensor:
        (found,) = session.run([output], {INPUT: x.numpy()})
        return torch.from_numpy(found)

    return run
