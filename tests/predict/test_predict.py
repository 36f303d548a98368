"""`spd-bench predict` through its entry point: names, points, forms of the answer, files, and refusals."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spd_bench
from spd_bench import RunModel, cli
from spd_bench.errors import ConfigError
from spd_bench.sweep.tables import SweepSummary, TrialRow


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Predict = Callable[..., Ended]


@pytest.fixture
def predict(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Predict:
    """Runs `spd-bench predict ARGUMENTS --runs …` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)

    def run(*args: object) -> Ended:
        argv = ["spd-bench", "predict", *map(str, args), "--runs", str(trained), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def model(trained: Path) -> RunModel:
    return spd_bench.load("tiny/v13", runs=trained, device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 90×37 pixels."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)).save(path)
    return path


def rows(done: Ended) -> list[dict[str, str]]:
    assert done.code == 0, done
    return list(csv.DictReader(io.StringIO(done.out)))


def refused(done: Ended, code: int, *parts: str) -> None:
    assert (done.code, done.out) == (code, ""), done
    assert done.err.startswith("error: ")
    assert done.err.count("error: ") == 1
    for part in parts:
        assert part in done.err


# answers


def test_the_table_says_depth_and_what_was_trained(predict: Predict, photo: Path, model: RunModel) -> None:
    done = predict(photo, "--run", "tiny/v13", "--at", "3,4", "--at", "88,36")
    assert done.code == 0, done
    depth_m = model.depth(model.encode(photo), [(3, 4), (88, 36)])
    cells = [line.split() for line in done.out.splitlines() if line.startswith(str(photo)) and ":" not in line]
    assert [cell[1:4] for cell in cells] == [["3", "4", f"{depth_m[0]:.3f}"], ["88", "36", f"{depth_m[1]:.3f}"]]
    assert "tiny/v13: v13 seed 0" in done.out
    assert "STAND-INS: patch descriptors instead of DAv2-S" in done.out
    assert "training saw depths of" in done.out
    assert "aspect 2.43: training saw 1.33" in done.out


def test_csv_is_rows_alone(predict: Predict, photo: Path, model: RunModel) -> None:
    done = predict(photo, "--run", "tiny", "--at", "3,4.5", "--format", "csv")
    (row,) = rows(done)
    assert (row["image"], row["u"], row["v"]) == (str(photo), "3", "4.5")
    assert float(row["depth_m"]) == pytest.approx(model.depth(model.encode(photo), [(3, 4.5)])[0], abs=1e-6)
    assert "STAND-INS" in done.err


def test_json_holds_run_and_points(predict: Predict, photo: Path) -> None:
    done = predict(photo, "--run", "tiny/v13", "--seed", "1", "--at", "3,4", "--format", "json")
    answer = json.loads(done.out)
    assert (answer["run"]["composition"], answer["run"]["seed"]) == ("v13", 1)
    assert answer["run"]["training_sizes"] == ["64×48"]
    (image,) = answer["images"]
    assert (image["width"], image["height"]) == (90, 37)
    assert [(point["u"], point["v"]) for point in image["points"]] == [(3, 4)]
    assert image["unfamiliar"]


def test_a_depth_outside_training_is_marked(predict: Predict, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spd_baselines.constant import Constant

    decode = Constant.decode
    monkeypatch.setattr(Constant, "decode", lambda self, scene, xy: decode(self, scene, xy) * 9)
    done = predict(photo, "--run", "tiny/constant", "--at", "3,4")
    assert "1 of 1 depths lie outside what training saw" in done.out
    assert "* outside the depths that training saw" in done.out


# points


def test_grid_file_and_mask_ask_the_same_points(predict: Predict, photo: Path) -> None:
    """A 3×1-pixel image: --grid 1 asks its middle pixel, as do the file and the mask."""
    Image.open(photo).crop((0, 0, 3, 1)).save("small.png")
    Path("points.csv").write_text("name,v,u\nx,0,1\n", encoding="utf-8")
    Path("plain.csv").write_text("1,0\n\n", encoding="utf-8")
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save("mask.png")
    asked = [
        ("--at", "1,0"),
        ("--grid", 1),
        ("--points", "points.csv"),
        ("--points", "plain.csv"),
        ("--mask", "mask.png"),
    ]
    found = [rows(predict("small.png", "--run", "tiny/v13", *how, "--format", "csv")) for how in asked]
    assert found == [found[0]] * 5
    assert (found[0][0]["u"], found[0][0]["v"]) == ("1", "0")


def test_a_grid_is_spread_evenly(predict: Predict, photo: Path) -> None:
    """90×37 pixels in 2×2 parts: their middles are at u = 22, 67 and v = 8.75, 27.25."""
    found = rows(predict(photo, "--run", "tiny/v13", "--grid", 2, "--format", "csv"))
    assert [(row["u"], row["v"]) for row in found] == [("22", "8.75"), ("67", "8.75"), ("22", "27.25"), ("67", "27.25")]


def test_a_long_answer_is_summed_up(predict: Predict, photo: Path) -> None:
    done = predict(photo, "--run", "tiny/v13", "--grid", 8)
    assert "64 points, 40 shown" in done.out


# files


def test_dense_maps_have_the_bits_of_single_points(predict: Predict, photo: Path, model: RunModel) -> None:
    done = predict(photo, "--run", "tiny/v13", "--dense", "--save", "out", "--at", "3,4")
    assert done.code == 0, done
    dense_m_HW = np.load("out/photo.depth.npy")
    assert (dense_m_HW.shape, dense_m_HW.dtype) == ((37, 90), np.float32)
    assert dense_m_HW[4, 3] == model.depth(model.encode(photo), [(3, 4)])[0]
    assert f"written: {Path('out/photo.overlay.png')}" in done.out
    assert Image.open("out/photo.overlay.png").width > 900


def test_maps_as_png_are_millimetres(predict: Predict, photo: Path, model: RunModel) -> None:
    done = predict(photo, "--run", "tiny/v13", "--dense", "--save", "out", "--map", "png")
    assert done.code == 0, done
    depth_mm_HW = np.asarray(Image.open("out/photo.depth.png"))
    assert depth_mm_HW.dtype == np.uint16
    dense_m_HW = model.dense(model.encode(photo))
    assert (depth_mm_HW == np.round(dense_m_HW * np.float32(1000))).all()


def test_save_with_the_name_of_a_picture_writes_that_picture(predict: Predict, photo: Path) -> None:
    done = predict(photo, "--run", "tiny/constant", "--at", "1,1", "--save", "new/points.png")
    assert (done.code, "written: new/points.png" in done.out) == (0, True), done
    assert Image.open("new/points.png").format == "PNG"
    assert [path.name for path in Path("new").iterdir()] == ["points.png"]


def test_a_folder_is_asked_image_by_image(predict: Predict, photo: Path) -> None:
    folder = Path("many")
    for name in ("b.jpg", "a.png", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image") if name == "notes.txt" else Image.open(photo).save(folder / name)
    found = rows(predict(folder, photo, "--run", "tiny/v13", "--at", "1,1", "--format", "csv"))
    assert [row["image"] for row in found] == [str(folder / "a.png"), str(folder / "b.jpg"), str(photo)]


def test_images_of_one_name_get_files_of_their_own(predict: Predict, photo: Path) -> None:
    Path("other").mkdir()
    Image.open(photo).save("other/photo.png")
    predict(photo, "other", "--run", "tiny/constant", "--at", "1,1", "--save", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["photo-2.overlay.png", "photo.overlay.png"]


# names


@pytest.mark.parametrize("form", ["{root}:tiny/v13", "{root}/trained/{folder}", "{root}/trained/{folder}/run.json"])
def test_a_run_has_several_names(predict: Predict, photo: Path, trained: Path, form: str) -> None:
    (folder,) = (trained / "trained").glob("v13-s0-*")
    named = predict(photo, "--run", form.format(root=trained, folder=folder.name), "--at", "1,1", "--format", "csv")
    assert rows(named) == rows(predict(photo, "--run", "tiny/v13", "--at", "1,1", "--format", "csv"))


def test_a_sweep_means_its_best_trial(
    predict: Predict, photo: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study whose best trial is the run of seed 1."""
    (folder,) = (trained / "trained").glob("v13-s1-*")
    trial = TrialRow(number=4, state="complete", values={}, notes={"folder": str(folder.relative_to(trained))})
    summary = SweepSummary(
        study="lambda", about={}, directions={}, total=1, trials=[trial], best=[trial], importances={}
    )

    def shown(name: str | None, *, root: Path) -> SweepSummary:
        if name != "lambda":
            raise ConfigError(f"no sweep {name}")
        return summary

    monkeypatch.setattr("spd_bench.sweep.show.show_sweep", shown)
    found = rows(predict(photo, "--run", "lambda", "--at", "1,1", "--format", "csv"))
    assert found == rows(predict(photo, "--run", folder, "--at", "1,1", "--format", "csv"))
    assert found != rows(predict(photo, "--run", "tiny", "--at", "1,1", "--format", "csv"))


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--run", "tiny/v31", "--at", "1,1"], 2, ["unknown composition", "v13"]),
        (["--run", "tinny/v13", "--at", "1,1"], 2, ["has not been run", "tiny", "SWEEP"]),
        (["--run", "tiny/v13", "--seed", 5, "--at", "1,1"], 2, ["no run of seed 5", "seeds: 0, 1"]),
        (["--run", "tiny/v13"], 2, ["no point is asked for", "--at"]),
        (["--run", "tiny/v13", "--at", "1"], 2, ["--at", "expected U,V"]),
        (["--run", "tiny/v13", "--at", "1,nan"], 2, ["--at", "finite"]),
        (["--run", "tiny/v13", "--at", "90,1"], 2, ["outside the image", "90×37 pixels"]),
        (["--run", "tiny/v13", "--dense"], 2, ["--save"]),
        (["--run", "tiny/v13", "--dense", "--save", "a.npy"], 2, ["--save a.npy", "the name of a file", "folder"]),
        (["--run", "tiny/v13", "--dense", "--save", "a.png"], 2, ["--save a.png", "without --dense"]),
        (["--run", "tiny/v13", "--at", "1,1", "--save", "a.jpg"], 2, ["--save a.jpg", "NAME.png"]),
        (["--run", "tiny/v13", "--at", "1,1", "--save", "photo.png"], 2, ["would replace the image itself"]),
        (["photo.png", "--run", "tiny/v13", "--at", "1,1", "--save", "a.png"], 2, ["the name of a file"]),
        (["--run", "tiny/v13", "--points", "none.csv"], 3, ["none.csv"]),
        (["--run", "tiny/v13", "--points", "bad.csv"], 3, ["bad.csv:2", "expected a point"]),
        (["--run", "tiny/v13", "--points", "empty.csv"], 3, ["holds no point"]),
        (["--run", "tiny/v13", "--mask", "mask.png"], 3, ["expected 90×37 pixels", "found 3×1"]),
        (["none.png", "--run", "tiny/v13", "--at", "1,1"], 3, ["none.png", "no such file"]),
        (["bad.csv", "--run", "tiny/v13", "--at", "1,1"], 3, ["bad.csv", "damaged or foreign"]),
        (["nothing", "--run", "tiny/v13", "--at", "1,1"], 3, ["holds no image"]),
    ],
)
def test_bad_input_is_refused(
    predict: Predict, photo: Path, arguments: list[object], code: int, parts: list[str]
) -> None:
    Path("bad.csv").write_text("u,v\n1,x\n", encoding="utf-8")
    Path("empty.csv").write_text("u,v\n", encoding="utf-8")
    Path("nothing").mkdir()
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save("mask.png")
    done = predict(photo, *arguments)
    refused(done, code, *parts)


def test_a_run_that_cannot_be_used_has_its_exit_code(predict: Predict, photo: Path, trained: Path) -> None:
    """A folder of a run, with a checkpoint that is cut off."""
    (folder,) = (trained / "trained").glob("constant-s0-*")
    Path("cut").mkdir()
    for name in ("run.json", "done.json", "checkpoint.pt"):
        content = (folder / name).read_bytes()
        (Path("cut") / name).write_bytes(content[:-9] if name == "checkpoint.pt" else content)
    refused(predict(photo, "--run", "cut", "--at", "1,1"), 7, "checkpoint.pt")


# what `run` proposes


def test_the_command_that_run_proposes_works(predict: Predict, trained: Path) -> None:
    command = (trained.parent / "example.txt").read_text(encoding="utf-8")
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("spd-bench", "predict")
    assert arguments[arguments.index("--run") + 1] == "tiny/v13"
    done = predict(*arguments)
    assert done.code == 0, done
    assert done.out.splitlines()[-1].split()[1:3] == ["32", "24"]  # the middle of 64×48 pixels


# videos


def write_video(path: Path, images: np.ndarray) -> None:
    """Losslessly encoded frames [N, H, W, 3]."""
    av = pytest.importorskip("av", reason="PyAV is not installed (spd-bench[video])")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = (*images.shape[1:3], "bgr0")
        for image_HW3 in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HW3, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.extra
def test_a_video_is_asked_frame_by_frame(predict: Predict, model: RunModel) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    write_video(Path("clip.mkv"), images)
    found = rows(predict("clip.mkv", "--run", "tiny/v13", "--at", "5,6", "--format", "csv", "--save", "out"))
    assert [row["image"] for row in found] == ["clip.mkv#0", "clip.mkv#1", "clip.mkv#2"]
    for row, image_HW3 in zip(found, images, strict=True):
        assert float(row["depth_m"]) == pytest.approx(model.depth(model.encode(image_HW3), [(5, 6)])[0], abs=1e-6)
    assert sorted(path.name for path in Path("out").iterdir()) == [f"clip-00000{i}.overlay.png" for i in range(3)]


@pytest.mark.extra
def test_a_damaged_video_is_refused(predict: Predict) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (spd-bench[video])")
    Path("clip.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")  # a playlist under a video's name
    refused(predict("clip.mp4", "--run", "tiny/v13", "--at", "5,6"), 3, "clip.mp4", "expected a video")


def test_videos_need_their_extra(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    Path("clip.mp4").write_bytes(b"")
    refused(predict("clip.mp4", "--run", "tiny/v13", "--at", "5,6"), 2, "spd-bench[video]")
