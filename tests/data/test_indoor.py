"""Published layouts: files made in their exact form come out in metres, in their splits, with their facts said."""

from pathlib import Path

import numpy as np
import pytest
from indoor_files import CASES, METRES_HW, Case, H, W, color, scannet

from spd_bench import registry
from spd_bench.api import DepthDataset
from spd_bench.data.inspect import inspect_data
from spd_bench.data.sets.indoor.seven_scenes import registered
from spd_bench.errors import DataError
from spd_bench.suite.load import recognised
from spd_bench.testing import DatasetContract


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].__name__}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, DepthDataset]:
    case: Case = request.param
    case[1](tmp_path)
    component = registry.load("dataset", case[0])
    return case, component(component.Config(root=str(tmp_path), **case[2]))


def test_depth_is_metres_and_splits_are_the_format_s(made: tuple[Case, DepthDataset], tmp_path: Path) -> None:
    (name, _, options, counts, tolerance), data = made
    assert tuple(len(data.frames(split)) for split in ("train", "val", "test")) == counts
    for split in ("train", "test"):
        for frame in data.frames(split)[:1]:
            np.testing.assert_allclose(data.read(frame).depth_m_HW, METRES_HW, atol=tolerance, rtol=0)
    if not options:
        assert recognised(tmp_path, where="here", hint="") == name
    about = {key: value for key, value in options.items() if key != "register_depth"}
    found = inspect_data(tmp_path, dataset=name, options=options, protocol="full_frame", on_frame=lambda d, t: None)
    assert found.description == data.describe()
    assert about == {}


def test_every_layout_keeps_the_contract(made: tuple[Case, DepthDataset], tmp_path: Path) -> None:
    (name, _, options, _, _), data = made

    class Kit(DatasetContract):
        component = type(data)
        config = type(data).Config(root=str(tmp_path), **options)

    kit = Kit()
    for test in (test for test in dir(kit) if test.startswith("test_")):
        getattr(kit, test)()
    assert name


def test_scannet_s_two_sizes_need_the_user_s_word(tmp_path: Path) -> None:
    scannet(tmp_path)
    for path in tmp_path.glob("*/color/*.jpg"):
        color(path, size=(2 * H, 2 * W))
    component = registry.load("dataset", "scannet")
    with pytest.raises(DataError) as caught:
        component(component.Config(root=str(tmp_path)))
    assert "--option resize=color" in (caught.value.hint or "")
    data = component(component.Config(root=str(tmp_path), resize="color"))
    assert data.read(data.frames("test")[0]).image_HW3.shape == (H, W, 3)


def test_registration_by_hand() -> None:
    # a pixel at (320, 240) and 1 m is the point (0, 0, 1); R p + t = (−0.0079 − 0.02556, −0.00815 + 0.0001,
    # 0.99994 + 0.00203) = (−0.03346, −0.00805, 1.00197), seen at 320 − 525 · 0.03340 = 302.5 and 240 − 4.2 = 235.8
    depth_m_HW = np.zeros((480, 640), np.float32)
    depth_m_HW[240, 320] = 1
    moved_HW = registered(depth_m_HW)
    assert [tuple(at) for at in np.argwhere(moved_HW)] == [(236, 302)]
    assert moved_HW[236, 302] == np.float32(1.00197) or abs(moved_HW[236, 302] - 1.00197) < 1e-5
    # where two pixels meet, the nearer one stays: of a wall, the view of 480 · 525/585 rows is kept
    wall_m_HW = np.full((480, 640), 2, np.float32)
    rows = np.flatnonzero((registered(wall_m_HW) > 0).any(axis=1))
    assert len(rows) == pytest.approx(480 * 525 / 585, abs=4)
