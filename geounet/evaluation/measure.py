"""`evaluate`: predictions of any number of scenes against their labels."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geounet.config.card import ClassInfo
from geounet.errors import GeounetError, JobError, LabelError
from geounet.evaluation.compare import Comparison, EvaluationSettings, Seen, WindowScore
from geounet.evaluation.metric import Metric, metric
from geounet.evaluation.prediction import Grid, Prediction, grid_of, predictions, with_picture
from geounet.evaluation.shapes import layers_of, read_shapes
from geounet.evaluation.specs import LabelKeys, load_spec, of_one_class, spec_of, with_labels, with_names, without_mask
from geounet.evaluation.tally import Tally
from geounet.evaluation.truth import Area, Classes, Labelled, Spec, Truth, classes_of, label_files
from geounet.labels.frames import Frame
from geounet.labels.layers import expand
from geounet.raster.vectors import ENDINGS
from geounet.types import Progress, Silent
from geounet.vector.source import opened

logger = logging.getLogger(__name__)

FORMAT = "geounet-evaluation/1"

PathLike = str | Path


@dataclass(frozen=True)
class Case:
    """One scene with all that is needed to compare it, or to look at it again."""

    prediction: Prediction
    classes: Classes
    grid: Grid
    frame: Frame
    file: Path
    metric: Metric
    area: Area | None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    scores
        All measures as JSON values: `scores["pixel"]["miou"]`, `scores["buildings"]["f1_50"]`, …. What was not
        compared, or is not defined, is None.
    tally
        The counts behind them.
    windows
        How wrong each window is.
    cases, labelled
        The scenes, and their labels.
    """

    scores: dict[str, Any]
    tally: Tally
    windows: tuple[WindowScore, ...]
    cases: tuple[Case, ...]
    labelled: Labelled

    def write_page(self, path: PathLike) -> None:
        """Write an HTML page with tables, plots and the worst windows as pictures."""
        from geounet.evaluation.page import write_page

        write_page(Path(path), self)


def evaluate(
    pred: PathLike | Sequence[PathLike],
    truth: PathLike | Sequence[PathLike] | None = None,
    *,
    labels: PathLike | None = None,
    aoi: PathLike | Sequence[float] | None = None,
    aoi_crs: str | None = None,
    probability: PathLike | None = None,
    image: PathLike | None = None,
    band: int | None = None,
    label_band: int = 1,
    names: Mapping[str, str] | None = None,
    how: LabelKeys | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure predictions against labels.

    Scenes of any size are gone through window by window. What is compared depends on what is there: pixels where both
    sides have areas, buildings and roads where both sides have them, as vectors or as classes of a raster.

    Parameters
    ----------
    pred
        Masks, vector files, folders of scenes or output folders of runs.
    truth
        Class rasters, colour-coded pictures or vector files.
    labels
        A file that says how labels are to be read, instead of `truth`.
    aoi
        The part that counts: a vector file with polygons, or xmin, ymin, xmax, ymax.
    aoi_crs
        CRS of the four numbers; left out: the prediction's.
    probability
        Raster of probabilities, for calibration; the folder of a run brings its own.
    image
        Picture to show beside labels and prediction; the folder of a run brings its own.
    band
        Band of a mask that has several: one class of a multi-label model.
    label_band
        Band of label rasters that holds the classes.
    names
        Names of a mask's values, `{"1": "building"}`, where it has none itself.
    how
        What labels mean, as in `geounet.evaluation.specs.spec_of`: `class_`, `values`, `colours`, `column`, `layer`,
        `width_m`, `others`, `rest`.
    settings
        Sizes and tolerances.
    progress
        Told how far it is.

    Raises
    ------
    JobError
        If what is asked for contradicts itself, or does not fit the classes.
    LabelError, SceneError, VectorError
        If a file cannot be read, or labels do not lie on the prediction.
    """
    settings, progress = settings or EvaluationSettings(), progress or Silent()
    found = [p for path in _listed(pred) for p in predictions(Path(path), band)]
    if (truth is None) == (labels is None):
        raise JobError("give labels either as files (--truth) or as a file that describes them (--labels)")
    if (probability is not None or image is not None) and len(found) > 1:
        raise JobError(f"probability and image belong to one scene, found {len(found)}")
    if labels is not None:
        spec = load_spec(Path(labels))
        files = [file for layer in spec.layers for file in expand(layer.files, spec.root, "labels")]
    else:
        files = expand([str(t) for t in _listed(truth or [])], Path.cwd(), "truth")
    how = how or LabelKeys()
    found = [_named(p, files, label_band, names, how.get("class_")) for p in found]
    if probability is not None or image is not None:
        found = [with_picture(replace(found[0], probability=_path(probability) or found[0].probability), _path(image))]
    if labels is None:
        spec = _spec(found, files, label_band, how)
    cases = _cases(found, spec, files, aoi, aoi_crs, label_band)
    labelled = label_files(spec, cases[0].classes, [c.frame for c in cases], [c.file for c in cases])
    left_out: list[str] = []
    if spec.complete is None or (labels is None and how.get("rest") is None):
        # Nobody said that all is labelled there, too.
        covered = [labelled.on(case.frame, case.file) for case in cases]
        if any(covered):
            left_out = [c.prediction.name for c, there in zip(cases, covered, strict=True) if not there]
            cases = [c for c, there in zip(cases, covered, strict=True) if there]
    if settings.metres and cases[0].metric.unit != "m":
        raise JobError("a tolerance in metres needs a CRS; the prediction has none: give it in pixels")
    tally = Tally(labelled.folded.classes.infos, cases[0].metric.unit)
    windows: list[WindowScore] = []
    scenes = []
    with tempfile.TemporaryDirectory(prefix="geounet-evaluate-") as work:
        for number, case in enumerate(cases):
            own = _compared(number, case, labelled, settings, Path(work) / str(number))
            if own.labelled or len(cases) == 1:
                scenes.append({"name": case.prediction.name, **_brief(own.tally.scores(_tolerance(settings)))})
            else:
                left_out.append(case.prediction.name)
            tally.add(own.tally)
            windows += own.windows
            progress.update("scenes", number + 1, len(cases))
    _check(tally, cases)
    if tally.pixels is None:
        tally.infos = cases[0].classes.infos
    elif without := labelled.folded.without:
        logger.warning("%s: lines of the labels have no width: pixels are compared without this class; "
                       "--width-m METRES (width_m in --labels) burns them", ", ".join(without))  # fmt: skip
    scores = {
        "format": FORMAT,
        "unit": tally.unit,
        "classes": [info.name for info in tally.infos],
        **tally.scores(_tolerance(settings)),
        "scenes": scenes,
        "left_out": left_out,
    }
    return Evaluation(scores, tally, tuple(windows), tuple(cases), labelled)


def _listed(value: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [value] if isinstance(value, (str, Path)) else list(value)


def _tolerance(settings: EvaluationSettings) -> tuple[float, str]:
    return settings.tolerance, "m" if settings.metres else "px"


def _path(value: PathLike | None) -> Path | None:
    return None if value is None else Path(value)


def _named(
    found: Prediction, files: Sequence[Path], band: int, names: Mapping[str, str] | None, class_: str | None
) -> Prediction:
    if found.mask is None:
        return found
    mask = with_names(found.mask, names) if names else of_one_class(found.mask, files, class_)
    return replace(found, mask=with_labels(files, mask, band))


def _spec(found: Sequence[Prediction], files: Sequence[Path], band: int, how: LabelKeys) -> Spec:
    mask = next((p.mask for p in found if p.mask is not None), None)
    if mask is not None:
        return spec_of(files, mask.classes, coded="names" if mask.named else "values", band=band, **how)
    words = [*(how.get("values") or {}).values(), *(how.get("colours") or {}).values()]
    class_ = how.get("class_")
    words += [class_] if class_ else []
    return spec_of(files, _vector_classes(found[0], files, band, words), coded="nothing", band=band, **how)


def _vector_classes(found: Prediction, files: Sequence[Path], band: int, words: Sequence[str]) -> list[ClassInfo]:
    assert found.vectors is not None
    return without_mask(files, band, words, found.vectors)


def _cases(
    found: Sequence[Prediction],
    spec: Spec,
    files: Sequence[Path],
    aoi: PathLike | Sequence[float] | None,
    aoi_crs: str | None,
    band: int,
) -> list[Case]:
    cases: list[Case] = []
    where = str(aoi) if isinstance(aoi, (str, Path)) else aoi
    words, _ = spec.names()
    rasters = [path for path in files if path.suffix.lower() not in ENDINGS]
    for prediction in found:
        mask = prediction.mask
        infos = mask.classes if mask else tuple(_vector_classes(prediction, files, band, sorted(words)))
        classes = classes_of(infos, spec)
        if cases and cases[0].classes.names != classes.names:
            raise JobError(
                f"{prediction.name} has the classes {', '.join(classes.names)}, {cases[0].prediction.name} has "
                f"{', '.join(cases[0].classes.names)}; evaluate them one after the other"
            )
        grid = _grid(prediction, files)
        frame = Frame(prediction.name, (grid.rows, grid.cols), grid.transform, grid.crs, grid.gsd)
        file = Path(prediction.info.files[0]) if prediction.info else Path(f"{prediction.name}.tif")
        if len(found) == 1 and len(rasters) == 1:
            file = Path(f"{rasters[0].stem}.tif")  # nothing to choose: their names need not be alike
        plane = metric(grid.crs, grid.transform if grid.real else None, grid.bounds)
        if cases and cases[0].metric.unit != plane.unit:
            raise JobError(f"{prediction.name}: lengths are in {plane.unit}, of the scenes before in "
                           f"{cases[0].metric.unit}; evaluate scenes with and without a CRS apart")  # fmt: skip
        predicted = None if prediction.extent is None else prediction.extent.polygons
        area = None if where is None and predicted is None else Area(where, aoi_crs, frame, predicted)
        cases.append(Case(prediction, classes, grid, frame, file, plane, area))
    return cases


def _grid(prediction: Prediction, files: Sequence[Path]) -> Grid:
    """Return the pixels of a scene: of its mask, else of its labels, else one that stands for vectors."""
    if prediction.mask is not None:
        return prediction.mask.grid
    rasters = [path for path in files if path.suffix.lower() not in ENDINGS]
    if prediction.extent is not None:
        return replace(prediction.extent.grid, real=bool(rasters))
    if rasters:
        with opened(str(rasters[0])) as dataset:
            return grid_of(dataset)
    assert prediction.vectors is not None
    # Where nothing was predicted, the place is that of the labels.
    for path in (prediction.vectors, *files):
        found = [read_shapes(path, layer) for layer in layers_of(path)]
        boxes = [(shapely.total_bounds(shapes), crs) for shapes, crs in found if len(shapes)]
        if boxes:
            low = np.min([box[:2] for box, _ in boxes], axis=0)
            size = np.maximum(np.max([box[2:] for box, _ in boxes], axis=0) - low, 1e-9)
            transform = (float(size[0]), 0.0, float(low[0]), 0.0, -float(size[1]), float(low[1] + size[1]))
            return Grid(1, 1, transform, boxes[0][1], real=False)
    raise JobError(f"{prediction.vectors}: nothing to compare: neither it nor the labels hold features")


def _compared(number: int, case: Case, labelled: Labelled, settings: EvaluationSettings, work: Path) -> Seen:
    truth = Truth(labelled, case.frame, case.file, pixels=case.grid.real)
    try:
        return Comparison(
            number, case.prediction, truth, case.classes, case.grid, case.metric, case.area, settings, work
        ).run()
    finally:
        truth.close()


def _brief(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measures of one scene that a table shows."""
    pixel, buildings, roads = (scores[key] or {} for key in ("pixel", "buildings", "roads"))
    return {
        "pixel": {key: pixel[key] for key in ("pixels", "miou", "accuracy", "iou")} if pixel else None,
        "buildings": {key: buildings[key] for key in ("truth", "found", "f1_50", "polis_m")} if buildings else None,
        "roads": {key: roads[key] for key in ("apls", "topo_f1")} if roads else None,
    }


def _check(tally: Tally, cases: Sequence[Case]) -> None:
    """Refuse an evaluation that compared nothing."""
    if tally.pixels is not None and tally.pixels.confusion.total == 0:
        raise LabelError(
            f"{cases[0].prediction.name}: labels and prediction have no pixel in common; is the CRS of both right, and "
            "does the area of interest hold labels?"
        )
    if tally.pixels is None and tally.buildings is None and tally.roads is None:
        raise JobError(
            "nothing to compare: pixels need a mask and labels that are areas, buildings and roads need that class, or "
            "a layer of it, on both sides"
        )


def predicted(
    model: str, scenes: Sequence[str], out: Path, settings: Sequence[str] = (), progress: Progress | None = None, *,
    kept: bool = True,
) -> tuple[Path, int]:  # fmt: skip
    """Run the main job on scenes, to be evaluated; returns its output folder and exit code.

    Parameters
    ----------
    model
        A bundled model's name, or a bundle's path.
    scenes
        Files, globs or folders.
    out
        Output folder.
    settings
        `key=value` for keys of the job.
    progress
        Told how far it is.
    kept
        Whether the output folder stays, so that one may be told to look into it.

    Raises
    ------
    GeounetError
        If no scene could be segmented.
    """
    from geounet.batch.run import run
    from geounet.config.load import job_from_options

    job = job_from_options(
        list(scenes), None, None, [f"model={model}", f"outputs.folder={out}", "outputs.probability=true", *settings]
    )
    result = run(job, progress=progress)
    if result.exit_code == 1:
        if kept:
            raise GeounetError(f"{out}: no scene could be segmented; why stands above and in its manifest.json")
        raise GeounetError("no scene could be segmented; why stands above")
    return result.folder, result.exit_code
