"""Released models see what their authors show them: from a PNG file to depth at the frame's pixels.

`authors_reference.json` holds what the authors' own `infer_image` gives (`make_authors_reference.py`).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from released import HEIGHT, POINTS, RELEASES, WIDTH, random_release, write_picture
from torch import Tensor

from spd_baselines.dav2_dense import DAv2Dense
from spd_baselines.dav2_metric_indoor import DAv2MetricIndoor
from spd_baselines.dpt_head import AUTHORS_INPUT, DenseMap, read_map
from spd_bench.api import AspectKept, DepthDataset, Features, Frame, FrameId, PointDepthModel
from spd_bench.ask.model import RunModel
from spd_bench.ask.record import TrainedRun
from spd_bench.data.batches import unit_points
from spd_bench.data.resizing import resized, unit_range
from spd_bench.data.views import Views
from spd_bench.geometry import pixel_to_unit
from spd_bench.suite.schema import Augment
from spd_components.encoders.dav2 import DAv2Small
from spd_components.encoders.dav2_sizes import SMALL

REFERENCE = json.loads(Path(__file__).with_name("authors_reference.json").read_text(encoding="utf-8"))


RUN = TrainedRun(
    folder=Path("run"),
    composition="dav2_metric_indoor",
    difference="",
    seed=0,
    identity={"data": {}},
    image_size=None,
    data="",
    stand_ins=(),
    seen=None,
    local_options={},
)


class OnePicture(DepthDataset):
    """One frame, read from a PNG file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def frames(self, split: str) -> list[FrameId]:
        return [FrameId("picture", "scene")]

    def read(self, frame: FrameId) -> Frame:
        return Frame(np.array(Image.open(self.path)), np.ones((HEIGHT, WIDTH), np.float32))

    def digest(self) -> str:
        return ""

    def describe(self) -> str:
        return "one picture"


def released(release: str, folder: Path) -> PointDepthModel:
    """The baseline of a release, with the random weights of the reference."""
    torch.save(random_release(SMALL, seed=RELEASES[release]), folder / f"{release}.pth")
    encoder = DAv2Small(DAv2Small.Config(weights=str(folder / f"{release}.pth"), release=release))  # type: ignore[arg-type]
    if release == "relative":
        return DAv2Dense(DAv2Dense.Config(alignment="none"), encoder)
    return DAv2MetricIndoor(DAv2MetricIndoor.Config(), encoder)


def own_view(model: PointDepthModel, path: Path, size: Any = None) -> tuple[Tensor, NDArray[np.float32]]:
    """The network's input of the picture, and its depth."""
    assert model.own_input is not None
    data = OnePicture(path)
    views = Views(
        data,
        image_size=size or model.own_input,
        augmentation=Augment(enabled=False),
        resampling=model.encoder.resampling,
    )
    frame = data.frames("test")[0]
    image_3HW, depth_m_HW = views.see(frame, views.plain(frame))
    return unit_range(image_3HW[None]), depth_m_HW


@torch.no_grad()
def test_a_png_gives_the_disparity_that_the_authors_code_gives(tmp_path: Path) -> None:
    """Relative errors: at most 1e-5 in the median and 5e-4 anywhere."""
    model, picture = released("relative", tmp_path), write_picture(tmp_path)
    assert isinstance(model, DAv2Dense)
    theirs = np.array(REFERENCE["relative"])
    image_13HW, depth_m_HW = own_view(model, picture)
    assert image_13HW.shape == (1, 3, 518, 686)
    scene = model.prepare(replace(model.encode(image_13HW), frame_size=depth_m_HW.shape))
    xy_1K2 = unit_points(np.array(POINTS), depth_m_HW)[None]
    error = np.abs(model.relative_disparity(scene, xy_1K2)[0].double().numpy() / theirs - 1)
    assert np.median(error) < 1e-5
    assert error.max() < 5e-4
    # negative controls: the same map read at pixel centres, and the input from an antialiased filter on 8 bits
    centres = read_map(scene.disparity.map_BHW, xy_1K2)[0].double().numpy()
    assert np.abs(centres / theirs - 1).max() > 5e-3
    eight_bits = unit_range(resized(np.array(Image.open(picture)), (518, 686), "antialiased"))
    assert float((eight_bits - image_13HW[0]).abs().median()) > 1e-3


def test_predict_gives_the_depth_that_the_authors_code_gives(tmp_path: Path) -> None:
    """The metric release through `spd_bench.load`'s model, which decodes in blocks: the same bounds."""
    model, picture = released("metric_indoor", tmp_path), write_picture(tmp_path)
    asked = RunModel(RUN, model.eval(), torch.device("cpu"))
    error = np.abs(asked.depth(asked.encode(picture), POINTS) / np.array(REFERENCE["metric_indoor"]) - 1)
    assert np.median(error) < 1e-5
    assert error.max() < 5e-4


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((480, 640), (518, 686)),  # 518 · 640/480 = 690.67 = 49.3 · 14 → 49 · 14
        ((640, 480), (686, 518)),
        ((224, 224), (518, 518)),
        ((1080, 1920), (518, 924)),  # 920.9 = 65.8 · 14 → 66 · 14
        ((427, 561), (518, 686)),  # 680.6 = 48.6 · 14 → 49 · 14
        ((500, 504), (518, 518)),  # 522.1 = 37.3 · 14 → 37 · 14
    ],
)
def test_the_shorter_side_is_518_and_the_aspect_is_kept(frame: tuple[int, int], expected: tuple[int, int]) -> None:
    assert AUTHORS_INPUT.size(*frame) == expected


def test_a_side_is_never_below_the_shorter_one() -> None:
    # 10 · 4/3 = 13.3 is nearest to 1 · 9 = 9 < 10, so 2 · 9
    assert AspectKept(shorter=10, multiple=9).size(30, 40) == (18, 18)


def test_opencv_bicubic_overshoots_where_eight_bits_cannot() -> None:
    """A step from 0 to 1, enlarged from 4 to 8 columns.

    Column j samples (j + ½)/2 − ½. With a = −0.75 the weights at distances ¼, ¾, 1¼, 1¾ are 0.87891, 0.26172, −0.10547
    and −0.03516. Column 1, at 0.25, has input 2 at 1¾: −0.03516. Column 2, at 0.75, has it at 1¼: −0.10547. Column 3,
    at 1.25, has inputs 2 and 3 at ¾ and 1¾: 0.22656. The other half mirrors them.
    """
    step_HW3 = np.repeat(np.array([[0, 0, 255, 255]], np.uint8)[..., None], 3, axis=2)
    row_W = resized(np.repeat(step_HW3, 4, axis=0), (4, 8), "opencv")[0, 1]
    assert row_W.dtype == torch.float32
    expected = [0, -0.03516, -0.10547, 0.22656, 0.77344, 1.10547, 1.03516, 1]
    assert row_W.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("frame", [(480, 640), (5, 9)])
def test_a_dense_map_is_read_as_if_enlarged_with_aligned_corners(frame: tuple[int, int]) -> None:
    height, width = frame
    map_1HW = torch.rand(1, 14, 21, generator=torch.Generator().manual_seed(0))
    enlarged_HW = F.interpolate(map_1HW[:, None], frame, mode="bilinear", align_corners=True)[0, 0]
    uv_K2 = torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1], [3, 2], [width // 2, 4]])
    xy_1K2 = pixel_to_unit(uv_K2.double(), width=width, height=height).float()[None]
    maps = (map_1HW[..., None],) * 4
    found_K = DenseMap.of(map_1HW, Features(maps, frame)).read(xy_1K2)[0]
    assert torch.allclose(found_K, enlarged_HW[uv_K2[:, 1], uv_K2[:, 0]], atol=2e-6)
    # an image that was encoded as it is: its pixels are the map's
    whole_HW = DenseMap.of(map_1HW, Features(maps))
    xy_1K2 = pixel_to_unit(torch.tensor([[20.0, 13.0], [7.0, 3.0]]), width=21, height=14)[None]
    assert torch.allclose(whole_HW.read(xy_1K2)[0], torch.stack([map_1HW[0, 13, 20], map_1HW[0, 3, 7]]), atol=1e-6)
