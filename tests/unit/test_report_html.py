from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geounet.report import html
from geounet.report.html import write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checked(HTMLParser):
    """Parses strictly: every element is closed in order; collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({k for k, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(t for t in self.texts if t)

    def all(self, tag: str, key: str) -> list[str]:
        return [a[key] or "" for t, a in self.tags if t == tag and key in a]


def done(name: str = "banepa", **changes: Any) -> dict[str, Any]:
    scene: dict[str, Any] = {
        "name": name,
        "state": "done",
        "error": None,
        "folder": name,
        "model": {"name": "aerial", "sha256": "9f86d081884c7d65" * 4},
        "input": {
            "width": 5000, "height": 4000, "dtype": "uint8", "gsd": 0.265, "crs_wkt": 'PROJCS["WGS 84 / UTM 45N",…]',
            "band_names": ["red", "green"], "validity": ["alpha"], "warnings": ["odd nodata"],
        },
        "grid": {"tile": 512, "overlap": 64, "block": 8, "model_grid": [4000, 5000]},
        "device": "cpu",
        "precision": "fp32",
        "batch": 4,
        "tiles": {"grid": 110, "valid": 100, "inferred": 100},
        "blocks": {"total": 4, "done": 4, "failed": []},
        "timings": {"read": 2.0, "infer": 40.0},
        "area": {
            "background": {"pixels": 15_000_000, "m2": 1_050_000.0},
            "road": {"pixels": 5_000_000, "m2": 350_000.0},
            "nodata": {"pixels": 1_000_000, "m2": 70_000.0},
        },
        "classes": [{"name": "background", "colour": "#1f1f1f"}, {"name": "road", "colour": "#f5b800"}],
        "features": {"road_edges": 1234},
        "warnings": ["slow storage", "odd nodata"],
        "files": {"mask": f"{name}_mask.tif", "preview": f"{name}_preview.png"},
    }  # fmt: skip
    return scene | changes


def manifest(*scenes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "format": "geounet-manifest/1",
        "job": {"name": "town", "model": "aerial", "tiling": {"tile": 512}},
        "versions": {"geounet": "0.1.0", "torch": "2.15.0"},
        "started": "2026-03-01T10:00:00.123456+00:00",
        "finished": "2026-03-01T12:30:05Z",
        "seconds": 9005.2,
        "exit_code": 0,
        "scenes": list(scenes),
    }
    return whole | changes


def report(folder: Path, data: dict[str, Any]) -> Checked:
    dest = folder / "report.html"
    write_report(dest, data)
    text = dest.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    return Checked(text)


def test_tells_what_was_done(tmp_path: Path) -> None:
    page = report(tmp_path, manifest(done()))
    for words in (
        "town", "Finished: all scenes are done.", "1 done", "2 h 30 min", "2026-03-01 10:00:00 UTC",
        "2026-03-01 12:30:05 UTC", "geounet 0.1.0", "tile: 512", "5,000 × 4,000 px, uint8, 0.265 m per pixel",
        "WGS 84 / UTM 45N", "cpu · fp32", "tile 512 px, overlap 64 px, block 8 tiles a side", "110 in the grid",
        "4 of 4", "1,050,000 m² 15,000,000 75.00",
        "350,000 m² 5,000,000 25.00", "nodata 70,000 m² 1,000,000 –", "road_edges 1,234",
        "aerial 9f86d081884c", "20.0 megapixels",
    ):  # fmt: skip
        assert words in page.text, words
    # 20 Mpx in 40 s
    assert "infer 40.0 0.50" in page.text
    assert "What failed" not in page.text
    # The same warning from the input and from the run appears once.
    assert page.text.count("odd nodata") == 1
    assert "slow storage" in page.text


def test_failures_come_first_with_their_reasons(tmp_path: Path) -> None:
    failed = {"name": "b", "state": "failed", "error": "b.tif: truncated", "folder": "b"}
    blocks = {"total": 9, "done": 8, "failed": [{"row": 1, "col": 2, "error": "out of memory"}]}
    page = report(tmp_path, manifest(done(), failed, done("c", blocks=blocks), exit_code=3))
    text = page.text
    assert text.index("What failed") < text.index("2026-03-01")
    assert text.count("b.tif: truncated") == 2
    assert "row 1, col 2, error out of memory" in text
    assert "8 of 9, 1 failed" in text
    assert "1 done, 1 partly, 1 failed" in text
    anchors = {h for h in page.all("a", "href") if h.startswith("#")}
    assert anchors <= {f"#{i}" for i in page.all("section", "id")}
    assert len(anchors) == 3


def test_reasons_of_failed_blocks(tmp_path: Path) -> None:
    failures = [{"block": "b-1-2", "stage": "infer", "error": "out of memory"}]
    partly = done(blocks={"total": 9, "done": 8, "failed": ["b-1-2"]}, failures=failures, batch_halved=True)
    text = report(tmp_path, manifest(partly, exit_code=3)).text
    assert "Failed blocks (nodata in the mask) b-1-2: out of memory" in text
    assert "batch was halved" in text
    failed = {"name": "b", "state": "failed", "error": "every block failed", "failures": failures}
    text = report(tmp_path, manifest(failed, exit_code=1)).text
    assert "Failed blocks b-1-2: out of memory" in text


def test_folder_and_files_may_be_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "a_mask.tif").write_bytes(b"x")
    page = report(tmp_path / "out", manifest(done("a", folder="out/a", files={"mask": "out/a/a_mask.tif"})))
    assert "./a/a_mask.tif" in page.all("a", "href")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"scenes": None, "job": None, "versions": None},
        {"scenes": [{}]},
        {"scenes": [{"name": "x", "input": None, "grid": None, "tiles": {}, "blocks": None, "area": {"a": None}}]},
        {"scenes": [{"name": "x", "timings": {"read": 0}, "area": {"a": {"pixels": 0, "m2": None}}, "files": None}]},
        {"exit_code": 99, "seconds": None, "started": "yesterday"},
    ],
)
def test_absent_keys_leave_out_their_part(tmp_path: Path, data: dict[str, Any]) -> None:
    page = report(tmp_path, data)
    assert "None" not in page.text
    assert "nan" not in page.text


def test_every_value_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=y>"

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {(f"{evil}{k}" if k in ("background", "read", "road_edges", "torch") else k): poisoned(v)
                    for k, v in value.items()}  # fmt: skip
        if isinstance(value, list):
            return [poisoned(v) for v in value]
        return evil + value if isinstance(value, str) and value not in ("done", "failed") else value

    data = poisoned(manifest(done(), done("b", state="failed", error="why"), exit_code=3))
    data["scenes"][0]["classes"] = [{"name": f"{evil}background", "colour": "red;x:"}, {"name": "road", "colour": evil}]
    page = report(tmp_path, data)
    assert "script" not in {t for t, _ in page.tags}
    assert not any(k.startswith("on") for _, attrs in page.tags for k in attrs)
    assert all(
        not style or re.fullmatch(r"(width: [\d.]+%)?;? ?(background: #\w{6})?", style)
        for style in page.all("span", "style")
    )
    # It is there as text: the values were shown, not dropped.
    assert page.text.count("<script>alert('x')</script>") > 20


def test_no_requests_and_no_scripts(tmp_path: Path) -> None:
    (tmp_path / "banepa").mkdir()
    Image.new("RGB", (300, 100)).save(tmp_path / "banepa" / "banepa_preview.png")
    page = report(tmp_path, manifest(done()))
    assert {t for t, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert page.all("img", "src")
    assert all(src.startswith("data:image/") for src in page.all("img", "src"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_previews_are_inlined_and_reduced(tmp_path: Path) -> None:
    (tmp_path / "banepa").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (1300, 2200, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((2200, 1300)).save(tmp_path / "banepa" / "banepa_preview.png")
    page = report(tmp_path, manifest(done()))
    (source,) = page.all("img", "src")
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert image.size[0] == 1600
    assert image.size[1] == pytest.approx(1300 * 1600 / 2200, abs=1)
    assert "./banepa/banepa_preview.png" in page.all("a", "href")


def test_previews_beyond_the_budget_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (400, 200), "red").save(tmp_path / name / f"{name}_preview.png")
    write_report(tmp_path / "one.html", manifest(done("a")))
    one = len(Checked((tmp_path / "one.html").read_text(encoding="utf-8")).all("img", "src")[0])
    monkeypatch.setattr(html, "_INLINE_BYTES", int(2.5 * one))
    page = report(tmp_path, manifest(done("a"), done("b"), done("c")))
    assert len(page.all("img", "src")) == 2
    assert "./c/c_preview.png" in page.all("a", "href")


def test_a_broken_preview_is_only_linked(tmp_path: Path) -> None:
    (tmp_path / "banepa").mkdir()
    (tmp_path / "banepa" / "banepa_preview.png").write_bytes(b"\x89PNG truncated")
    page = report(tmp_path, manifest(done()))
    assert page.all("img", "src") == []
    assert "./banepa/banepa_preview.png" in page.all("a", "href")


def test_links_are_relative_quoted_and_only_to_files_that_exist(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "50%#.tif").write_bytes(b"x" * 2_500_000)
    files = {"mask": "50%#.tif", "vectors": "javascript:alert(1)", "other": "../../elsewhere.txt"}
    page = report(tmp_path, manifest(done("a b", files=files)))
    assert [h for h in page.all("a", "href") if "tif" in h] == ["./a%20b/50%25%23.tif"]
    assert "2.5 MB" in page.text
    assert page.text.count("missing") == 2
    assert not any(h.startswith("javascript") for h in page.all("a", "href"))


def test_shares_of_a_multilabel_mask_need_the_number_of_valid_pixels(tmp_path: Path) -> None:
    area = {"a": {"pixels": 60, "m2": None}, "b": {"pixels": 70, "m2": None}}
    many = done(model={"name": "m", "head": "multilabel"}, area=area)
    assert "70 –" in report(tmp_path, manifest(many)).text
    assert "70 70.00" in report(tmp_path, manifest(many | {"valid_pixels": 100})).text


def test_large_areas_are_in_square_kilometres(tmp_path: Path) -> None:
    area = {"a": {"pixels": 1, "m2": 123_456_789.0}, "b": {"pixels": 1, "m2": 5_000.0}}
    text = report(tmp_path, manifest(done(area=area))).text
    assert "123.457 km²" in text
    assert "0.005 km²" in text


def test_same_manifest_same_bytes_and_nothing_left_behind(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", manifest(done()))
    write_report(tmp_path / "b.html", manifest(done()))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_mosaics_are_told(tmp_path: Path) -> None:
    made = {
        "name": "town", "state": "done", "files": {"vectors": "town.gpkg"}, "features": {"buildings": 12},
        "scenes": ["a", "b"],
    }  # fmt: skip
    failed = {"name": "town_b", "state": "failed", "error": "disk full", "files": {}, "scenes": ["a"]}
    write_report(tmp_path / "report.html", manifest(done(), mosaics=[made, failed]))
    text = Checked((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "town.gpkg: 12 buildings; of 2 scenes; town_b failed: disk full" in text
    write_report(tmp_path / "report.html", manifest(done(), mosaics=[]))
    assert "Mosaic" not in Checked((tmp_path / "report.html").read_text(encoding="utf-8")).text
