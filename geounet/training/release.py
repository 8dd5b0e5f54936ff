"""Give a model that learnt from all its scenes the measures of the training that it continues.

`python -m geounet.training.release results/aerial_all/model --measured results/aerial/model --out BUNDLE`

A first training holds scenes out and is measured on them; a second one goes on from its weights with all scenes, so
nothing is left to measure it on. Its card gets the measures of the first, and says so. A third that goes on from a
bundle made so takes them from that bundle: `--measured aerial`.

With `--share 0.5` the weights are halfway between those of both: what the later one learnt of its own scenes, without
all that it lost of others (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from geounet.config.card import Card
from geounet.errors import ModelError
from geounet.models.bundle import Bundle, load_bundle, save_bundle

_MEASURES = ("miou", "accuracy", "iou", "precision", "recall", "pixels")


def release(final: Path, measured: Path | str, out: Path, *, share: float = 1.0, overwrite: bool = False) -> Bundle:
    """Write the bundle `out`: the weights of `final`, and the measures of `measured`.

    Parameters
    ----------
    final
        Bundle of the training that had all scenes.
    measured
        Bundle of the training that it started from, with scenes held out, or what this function made of such a one.
    out
        Where to.
    share
        Of the weights of `final`, above 0, at most 1; the rest is those of `measured`.
    overwrite
        Replace a bundle there.

    Raises
    ------
    ModelError
        If the classes differ, nothing was held out of the first training, or something was held out of the second; or
        if weights are shared of other networks.
    OutputExistsError
        If `out` exists and `overwrite` is false.
    """
    ours, theirs = load_bundle(final), load_bundle(measured)
    card, before = ours.card, theirs.card
    if [c.name for c in card.classes] != [c.name for c in before.classes]:
        raise ModelError(f"{measured}: its classes are not those of {final}")
    if card.metrics:
        raise ModelError(f"{final}: it was measured on scenes held out of its own training; there is nothing to add")
    if "iou" not in before.metrics.get("validation", before.metrics):
        raise ModelError(f"{measured}: no scenes were held out of its training, so it has no measures")
    metrics = before.metrics if "earlier" in before.training else _held_out(before)
    training = {**card.training, "earlier": {k: v for k, v in before.training.items() if k != "attribution"}}
    weights = load_file(ours.weights)
    if share != 1:
        weights = _between(weights, load_file(theirs.weights), share, f"{final} and {measured}")
        training["averaged"] = {"share": share, "with": theirs.sha256}
    card = card.model_copy(update={"metrics": metrics, "training": training})
    return save_bundle(out, card, weights, half=True, overwrite=overwrite)


def _between(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], share: float, what: str
) -> dict[str, torch.Tensor]:
    if not 0 < share <= 1:
        raise ModelError(f"--share {share:g}: expected a number above 0, at most 1")
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        raise ModelError(f"{what}: their networks differ, so there is nothing between them")
    return {
        key: torch.lerp(theirs[key].float(), value.float(), share) if value.is_floating_point() else value
        for key, value in ours.items()
    }


def _held_out(card: Card) -> dict[str, Any]:
    """Return the measures of a training's own card, saying where they are from."""
    scenes = card.training["scenes"]
    metrics: dict[str, Any] = {
        "measured_on": f"{_places(scenes['validation'])}, held out of the training that this one continues",
        **{key: card.metrics.get("validation", card.metrics)[key] for key in _MEASURES},
    }
    if card.metrics.get("measured_on") == "test":
        test = {key: card.metrics[key] for key in _MEASURES}
        metrics["test"] = {"measured_on": f"{_places(scenes['test'])}, held out likewise", **test}
    return metrics


def _places(scenes: Sequence[str]) -> str:
    """Return the folders of scenes, or their names where they are few."""
    if len(scenes) <= 3:
        return ", ".join(scenes)
    return ", ".join(dict.fromkeys(str(Path(name).parent) for name in scenes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("final", type=Path, help="bundle of the training that had all scenes")
    parser.add_argument("--measured", required=True, help="bundle that it started from, or a bundled one's name")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--share", type=float, default=1.0, help="of the final weights; the rest is of the others")
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args(arguments)
    release(given.final, given.measured, given.out, share=given.share, overwrite=given.overwrite)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
