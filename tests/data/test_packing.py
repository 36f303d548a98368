"""`data prepare`: packs equal their source to the bit, whatever is killed meanwhile; damage never reads as a frame."""

import importlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from tiny import wait_until

from spd_bench.api import SPLITS, DepthDataset, Frame, FrameId
from spd_bench.data import pack as packing
from spd_bench.data.sets.packed import HEADER, PackedFrames, as_millimetres, metres
from spd_bench.errors import BusyError, ConfigError, DataError, ResourceError, SpdError
from spd_bench.testing import DatasetContract

SIZE = (6, 8)
COUNTS = {"train": 10, "val": 3, "test": 4}
PART = 4  # 17 frames: five parts, the last of one frame


class Source(DepthDataset):
    """Frames that name themselves; every other one has depth that is no whole millimetre."""

    truth = "filled"
    stand_in = "numbers in place of pictures"

    def __init__(self, log: Path | None = None, note: str = "a") -> None:
        self.log, self.note = log, note

    def frames(self, split: str) -> Sequence[FrameId]:
        return [FrameId(f"{split}/é {i}", f"{split} room {i // 2}") for i in range(COUNTS[split])]

    def read(self, frame: FrameId) -> Frame:
        if self.log is not None:
            with self.log.open("a") as log:
                print(frame.frame, file=log)
        split, i = frame.frame.split("/")[0], int(frame.frame.split()[-1])
        v, u = np.mgrid[: SIZE[0], : SIZE[1]]
        image_HW3 = np.stack([v, u, np.full_like(v, 20 * i + SPLITS.index(split))], axis=-1).astype(np.uint8)
        depth_m_HW = ((1000 + 100 * i + 8 * v + u).astype(np.float32) / np.float32(1000)).astype(np.float32)
        depth_m_HW[0, 0] = 0
        return Frame(image_HW3, depth_m_HW if i % 2 else np.sqrt(depth_m_HW))

    def digest(self) -> str:
        return self.note * 64

    def describe(self) -> str:
        return "seventeen frames"


def ignore(done: int, total: int) -> None:
    """A caller that shows no progress."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PART_FRAMES", PART)


def pack(
    output: Path,
    data: DepthDataset | None = None,
    *,
    name: str = "made_up",
    workers: int = 1,
    on_frame: packing.OnFrame = ignore,
) -> packing.Packed:
    return packing.pack_dataset(data or Source(), output, name=name, workers=workers, on_frame=on_frame)


def opened(path: Path) -> PackedFrames:
    return PackedFrames(PackedFrames.Config(root=str(path)))


def every(data: DepthDataset) -> list[FrameId]:
    return [frame for split in SPLITS for frame in data.frames(split)]


def same(found: Frame, expected: Frame) -> bool:
    """Equal bits, types and shapes."""
    pairs = ((found.image_HW3, expected.image_HW3), (found.depth_m_HW, expected.depth_m_HW))
    return all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)


# millimetres


def test_every_millimetre_survives() -> None:
    all_mm = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    depth_m = metres(all_mm)
    assert depth_m.dtype == np.float32
    found = as_millimetres(depth_m)
    assert found is not None
    np.testing.assert_array_equal(found, all_mm)


@pytest.mark.parametrize(
    "odd", [1.0005, np.nextafter(np.float32(1.5), np.float32(2)), -0.0, -1, 65.536, np.nan, np.inf]
)
def test_what_is_no_millimetre_is_kept_as_it_is(odd: float) -> None:
    assert as_millimetres(np.array([[1.5, 0]], np.float32)) is not None
    assert as_millimetres(np.array([[1.5, odd]], np.float32)) is None


# the round trip


def test_a_pack_is_its_source_to_the_bit(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = pack(tmp_path / "new" / "rooms.h5", on_frame=lambda done, total: seen.append((done, total)))
    data, source = opened(result.path), Source()
    for split in SPLITS:
        assert data.frames(split) == source.frames(split)
    assert all(same(data.read_verified(frame), source.read(frame)) for frame in every(source))
    assert (data.truth, data.stand_in) == ("filled", "numbers in place of pictures")
    assert data.describe() == "packed: seventeen frames"
    assert (data.about.source, data.about.source_digest) == ("made_up", "a" * 64)
    with h5py.File(result.path) as file:  # of 10, 3 and 4 frames, every second: 5 + 1 + 2 in whole millimetres
        assert [file[name].id.get_num_chunks() for name in ("rgb", "depth_mm", "depth_m")] == [17, 8, 9]
        assert file["rgb"].chunks == (1, *SIZE, 3)
    assert str(result).startswith("packed 17 frames into")
    # parts as they are done, then every frame as it is verified
    assert [done for done, _ in seen] == [4, 8, 12, 16, 17, *range(1, 18)]
    assert {total for _, total in seen} == {17}
    assert sorted(os.listdir(tmp_path / "new")) == [".rooms.h5.lock", "rooms.h5"]


def test_digest_is_of_the_content_not_of_the_place_or_description(tmp_path: Path) -> None:
    first = opened(pack(tmp_path / "a.h5").path).digest()
    source = Source()
    source.describe = lambda: "of another folder"  # type: ignore[method-assign]
    assert opened(pack(tmp_path / "b.h5", source).path).digest() == first
    assert opened(pack(tmp_path / "c.h5", Source(note="b")).path).digest() == first
    source.truth = "raw"
    assert opened(pack(tmp_path / "d.h5", source).path).digest() != first


def test_two_processes_and_one_write_the_same_file(tmp_path: Path) -> None:
    folder = tmp_path / "rgbd"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full((*SIZE, 3), i, np.uint8)).save(folder / f"frame-{i:06d}.color.png")
        Image.fromarray(np.full(SIZE, 1000 + i, np.uint16)).save(folder / f"frame-{i:06d}.depth.png")
    first = packing.pack(folder, tmp_path / "0.h5", dataset=None, options={"gap": 1}, workers=1, on_frame=ignore)
    assert first.frames == 18  # 20 less a gap of one frame before val and before test
    # a pack of that pack, so that started processes open packs too
    for workers in (1, 2):
        output = tmp_path / f"{workers}.h5"
        packing.pack(first.path, output, dataset=None, options={}, workers=workers, on_frame=ignore)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()
    assert opened(tmp_path / "2.h5").digest() == opened(first.path).digest()


# killed and started again

WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def in_child(work: Callable[[], Any]) -> int:
    """Runs `work` in a forked process; its exit code, or minus the signal that ended it. An SpdError is its code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except SpdError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(count: int, below: Path) -> None:
    """From now on, SIGKILL at the `count`-th call that would change something in a folder."""
    left = [count]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WATCHED or str(below) not in str(arguments[0]):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_killed_at_any_change_of_the_disk_it_goes_on_to_the_same_file(tmp_path: Path) -> None:
    expected = pack(tmp_path / "undisturbed.h5").path.read_bytes()
    names = [frame.frame for frame in every(Source())]
    finished_at_kill = []
    for count in range(1, 1000):
        folder, log = tmp_path / "runs" / str(count), tmp_path / f"{count}.log"
        output = folder / "rooms.h5"

        def disturbed(count: int = count, folder: Path = folder, output: Path = output) -> None:
            kill_at(count, folder)
            pack(output)

        status = in_child(disturbed)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert not output.exists() or output.read_bytes() == expected
        done = [name for part in folder.glob("*.parts/part-*.h5") for name in names[int(part.stem[5:]) * PART :][:PART]]
        already = output.exists()
        finished_at_kill.append(len(done))
        result = pack(output, Source(log))
        assert output.read_bytes() == expected
        assert sorted(path.name for path in folder.iterdir()) == [".rooms.h5.lock", "rooms.h5"]
        read = log.read_text().splitlines() if log.exists() else []
        assert not set(read) & set(done)
        if not already:
            assert set(read) | set(done) == set(names)
            # every other frame once, and the first once more where it had not been measured yet
            assert len(read) - (17 - len(done)) in ({0, 1} if not done else {0})
            assert result.found == len(done)
    # at least: the record, then one writing and one renaming per part, the file's name, the parts' deletion
    assert count > 20
    assert {0, 4, 8, 12, 16, 17} <= set(finished_at_kill)


PROGRAM = """
import sys
from pathlib import Path
from slow_source import Slow
from spd_bench.data import pack as packing

if __name__ == "__main__":
    packing.PART_FRAMES = 1
    packing.pack_dataset(Slow(sys.argv[1]), Path(sys.argv[2]), name="slow", workers=2, on_frame=print)
"""
SLOW = """
import os, time
import numpy as np
from spd_bench.api import Component, DepthDataset, Frame, FrameId

class Slow(DepthDataset):
    def __init__(self, how): self.how = how
    def frames(self, split): return [FrameId(f"{split}{i}", split) for i in range(8)]
    def read(self, frame):
        if frame.frame == "val1" and self.how == "dies": os._exit(3)
        if self.how.startswith("/"):
            open(os.path.join(self.how, str(os.getpid())), "a").close()
            time.sleep(0.1)
        return Frame(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32))
    def digest(self): return "0" * 64
    def describe(self): return "slow"
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data set that started processes can import."""
    (tmp_path / "slow_source.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packing, "PART_FRAMES", 1)
    yield importlib.import_module("slow_source").Slow
    del sys.modules["slow_source"]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see processes")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, slow: Any) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pids").mkdir()
    output = tmp_path / "out.h5"
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "pids"), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # a part is done
        parent.kill()
    pids = {int(path.name) for path in (tmp_path / "pids").iterdir()}
    assert pids - {parent.pid}
    wait_until(lambda: not any(alive(pid) for pid in pids), "for the processes to end")
    parts = len(list((tmp_path / "out.h5.parts").glob("part-*.h5")))
    assert 1 <= parts < 24
    # parts of one frame each: those that were finished are not packed again
    assert pack(output, slow("quick"), name="slow").found == parts


def test_a_process_that_dies_is_an_error_of_the_machine(tmp_path: Path, slow: Any) -> None:
    with pytest.raises(ResourceError, match=r"(?s)a packing process died.*the same command goes on from here"):
        pack(tmp_path / "out.h5", slow("dies"), workers=2)


def test_damaged_or_foreign_parts_are_packed_again(tmp_path: Path) -> None:
    output, log = tmp_path / "rooms.h5", tmp_path / "log"
    expected = pack(tmp_path / "undisturbed.h5").path.read_bytes()
    stop_before_publishing(output)
    parts = sorted((tmp_path / "rooms.h5.parts").glob("part-*.h5"))
    assert len(parts) == 5
    content = bytearray(parts[1].read_bytes())
    content[len(content) // 2] ^= 1
    parts[1].write_bytes(content)
    shutil.copy(parts[0], parts[3])  # sound, but of other frames
    pack(output, Source(log))
    assert output.read_bytes() == expected
    names = [frame.frame for frame in every(Source())]
    assert log.read_text().splitlines() == [*names[4:8], *names[12:16]]


def stop_before_publishing(output: Path, data: DepthDataset | None = None) -> None:
    """Leaves all parts of a pack, but no file."""

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(output, data, on_frame=stop)
    assert not output.exists()


# what is refused


def test_parts_of_another_source_are_not_mixed(tmp_path: Path) -> None:
    output = tmp_path / "rooms.h5"
    stop_before_publishing(output)
    with pytest.raises(ConfigError, match=r"(?s)parts of another pack: source_digest was aaaa.*bbbb.*delete that fold"):
        pack(output, Source(note="b"))
    with pytest.raises(ConfigError, match="source was made_up, now it is other"):
        pack(output, name="other")
    (tmp_path / "rooms.h5.parts" / "source.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"source.json: cannot be read"):
        pack(output)
    shutil.rmtree(tmp_path / "rooms.h5.parts")
    assert opened(pack(output, Source(note="b")).path).about.source_digest == "b" * 64


def test_files_of_others_in_the_folder_of_parts_stay(tmp_path: Path) -> None:
    (tmp_path / "rooms.h5.parts").mkdir()
    (tmp_path / "rooms.h5.parts" / "mine.txt").write_text("precious")
    pack(tmp_path / "rooms.h5")
    assert os.listdir(tmp_path / "rooms.h5.parts") == ["mine.txt"]


def test_an_output_that_exists_is_taken_only_if_it_is_this_very_pack(tmp_path: Path) -> None:
    output, log = tmp_path / "rooms.h5", tmp_path / "log"
    before = pack(output).path.read_bytes()
    again = pack(output, Source(log))
    assert again.already
    assert str(again).startswith("already packed: 17 frames")
    assert not log.exists()
    with pytest.raises(ConfigError, match="another pack: source_digest is aaaa"):
        pack(output, Source(note="b"))
    assert output.read_bytes() == before
    output.write_text("my thesis")
    with pytest.raises(ConfigError, match=r"(?s)no whole pack: .*another file.*give another name"):
        pack(output)
    assert output.read_text() == "my thesis"
    with pytest.raises(ConfigError, match="the source itself"):
        packing.pack(output, tmp_path / "." / "rooms.h5", dataset=None, options={}, workers=1, on_frame=ignore)


def test_an_output_that_exists_is_read_to_its_end_before_it_counts_as_packed(tmp_path: Path) -> None:
    output = pack(tmp_path / "rooms.h5").path
    seen: list[tuple[int, int]] = []
    assert pack(output, on_frame=lambda done, total: seen.append((done, total))).already
    assert seen == [(done, 17) for done in range(1, 18)]
    whole = bytearray(output.read_bytes())
    frame = Source().frames("val")[1]
    place = whole.index(Source().read(frame).image_HW3.tobytes())  # RGB is stored as it is
    whole[place + 5] ^= 1
    output.write_bytes(whole)
    with pytest.raises(DataError, match=r"(?s)frame val/é 1: is packed already, and damaged: .*delete it; the same"):
        pack(output)
    assert output.read_bytes() == whole
    output.unlink()
    assert not pack(output).already


def test_a_second_packer_is_told_that_it_is_busy(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".rooms.h5.lock"):
        assert in_child(lambda: pack(tmp_path / "rooms.h5")) == BusyError.exit_code == 6
    pack(tmp_path / "rooms.h5")


class Spoilt(Source):
    """One frame is changed."""

    def __init__(self, change: Callable[[Frame], Frame]) -> None:
        super().__init__()
        self.change = change

    def read(self, frame: FrameId) -> Frame:
        read = super().read(frame)
        return self.change(read) if frame.frame == "val/é 1" else read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: Frame(f.image_HW3[1:], f.depth_m_HW[1:]),
            "frame val/é 1: expected 6×8 like the first frame, found 5×8",
        ),
        (
            lambda f: replace(f, depth_m_HW=f.depth_m_HW.astype(np.float64)),
            r"frame val/é 1: expected .* found .*float64",
        ),
        (lambda f: replace(f, depth_m_HW=-f.depth_m_HW), "frame val/é 1: .* negative or infinite values or NaN"),
        (lambda f: replace(f, image_HW3=f.image_HW3[..., :1]), r"frame val/é 1: expected .* uint8 \[6, 8, 1\]"),
    ],
)
def test_frames_that_break_the_contract(tmp_path: Path, change: Callable[[Frame], Frame], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(tmp_path / "rooms.h5", Spoilt(change))
    assert not (tmp_path / "rooms.h5").exists()


def test_names_that_a_pack_cannot_tell_apart(tmp_path: Path) -> None:
    source = Source()
    source.frames = lambda split: [FrameId("a", "s")]  # type: ignore[method-assign]
    with pytest.raises(DataError, match="frame a is there twice, the second time in val"):
        pack(tmp_path / "rooms.h5", source)
    source.frames = lambda split: []  # type: ignore[method-assign]
    with pytest.raises(DataError, match="has no frames"):
        pack(tmp_path / "rooms.h5", source)
    source.frames = lambda split: [FrameId(f"{split}\0", "s")]  # type: ignore[method-assign]
    with pytest.raises(DataError, match="has a NUL"):
        pack(tmp_path / "rooms.h5", source)


def test_a_split_may_be_empty(tmp_path: Path) -> None:
    source = Source()
    source.frames = lambda split: Source().frames(split) if split == "test" else []  # type: ignore[method-assign]
    data = opened(pack(tmp_path / "rooms.h5", source).path)
    assert [len(data.frames(split)) for split in SPLITS] == [0, 0, 4]


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one process, found 0"):
        pack(tmp_path / "rooms.h5", workers=0)
    with pytest.raises(ConfigError, match="is not read from a path"):
        packing.pack(tmp_path, tmp_path / "o.h5", dataset="synthetic_rooms", options={}, workers=1, on_frame=ignore)
    with pytest.raises(DataError, match="no such file or folder"):
        packing.pack(tmp_path / "none", tmp_path / "o", dataset=None, options={}, workers=1, on_frame=ignore)


# the disk


def test_a_small_disk_is_noticed_before_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=16 * 2**20))
    with pytest.raises(ResourceError, match=r"packing needs .* MB, 16.8 MB are free|needs 17 MB, 17 MB are free"):
        pack(tmp_path / "rooms.h5")
    assert ResourceError.exit_code == 5
    assert not list(tmp_path.glob("rooms.h5.parts/part-*"))


def test_a_disk_that_fills_up_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    expected = pack(tmp_path / "undisturbed.h5").path.read_bytes()
    stop_before_publishing(tmp_path / "other.h5")
    part = max(path.stat().st_size for path in (tmp_path / "other.h5.parts").glob("part-*.h5"))
    assert part < len(expected)
    output = tmp_path / "rooms.h5"

    def with_room(size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        pack(output)

    # the first part does not fit; then parts fit and the whole does not; then it does
    for size, code, parts in ((part - 1, 5, 0), (part, 5, 5), (2 * len(expected), 0, 0)):
        assert in_child(lambda size=size: with_room(size)) == code  # type: ignore[misc]
        assert len(list((tmp_path / "rooms.h5.parts").glob("part-*.h5"))) >= parts
        assert output.exists() == (code == 0)
    assert output.read_bytes() == expected


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        pack(tmp_path / "file" / "rooms.h5")


# damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "rooms.h5"
    return pack(path).path.read_bytes()


def read_all(path: Path) -> list[Frame] | None:
    """Every frame, or None where the file is refused."""
    try:
        data = opened(path)
        return [data.read(frame) for frame in every(Source())]
    except DataError:
        return None


def test_damaged_bytes_never_read_as_a_frame(tmp_path: Path, whole: bytes) -> None:
    path, source = tmp_path / "rooms.h5", Source()
    expected = [source.read(frame) for frame in every(source)]
    rng = np.random.default_rng(0)
    states = [bytearray(whole) for _ in range(220)]
    for state, place in zip(states[:200], rng.integers(0, len(whole), 200), strict=True):
        state[place] ^= 1 << int(rng.integers(8))
    for state, place in zip(states[200:], rng.integers(0, len(whole), 20), strict=True):
        state[place : place + 4096] = bytes(len(state[place : place + 4096]))
    states += [bytearray(whole[:length]) for length in rng.integers(0, len(whole), 30)]
    refused = 0
    for state in states:
        path.write_bytes(state)
        found = read_all(path)
        refused += found is None
        assert found is None or all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert refused > 125  # bytes between HDF5's blocks mean nothing; half of the file does
    path.write_bytes(whole)
    assert read_all(path) is not None


def edited(tmp_path: Path, whole: bytes, edit: Callable[[Any], None]) -> Path:
    """The pack after somebody changed it with HDF5's own means."""
    path = tmp_path / "edited.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def relinked(name: str, link: Any) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        del file[name]
        file[name] = link

    return edit


def outside(file: Any) -> None:
    """rgb in another file: HDF5 would read any file of this machine."""
    shape = file["rgb"].shape
    del file["rgb"]
    file.create_dataset("rgb", shape, np.uint8, external=[("/etc/hosts", 0, h5py.h5f.UNLIMITED)])


def huge(file: Any) -> None:
    """A few bytes that claim a trillion frames."""
    for name, dtype, axes in (("rgb", "u1", (*SIZE, 3)), ("depth_mm", "u2", SIZE), ("depth_m", "f4", SIZE)):
        del file[name]
        file.create_dataset(name, (10**12, *axes), dtype, chunks=(1, *axes), fletcher32=True)


def without_checksum(file: Any) -> None:
    pixels = file["rgb"][()]
    del file["rgb"]
    file.create_dataset("rgb", data=pixels, chunks=(1, *SIZE, 3))


def renamed(file: Any) -> None:
    names = file["frame"][()]
    names[0], names[1] = names[1], names[0]
    file["frame"][...] = names


def twice(file: Any) -> None:
    file["frame"][1] = file["frame"][0]


def unstored(file: Any) -> None:
    flags = file["whole_mm"][()]
    flags[0] = 1 - flags[0]
    file["whole_mm"][...] = flags


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (relinked("rgb", h5py.ExternalLink("/etc/hosts", "/rgb")), "'/rgb' is a link to another place or file"),
        (relinked("rgb", h5py.SoftLink("/depth_mm")), "'/rgb' is a link to another place or file"),
        (outside, "'/rgb' keeps its values in another file"),
        (without_checksum, "rgb is no array with checksums in the file itself"),
        (lambda file: file.__delitem__("scene"), "scene is no array"),
        (lambda file: file.move("depth_m", "old") or file.create_group("depth_m"), "depth_m is no array"),
        (lambda file: file.move("split", "old") or file.move("frame", "split"), "frame is no array"),
        (huge, "1000000000000 frames, stored are"),
        (lambda file: file.attrs.__delitem__("truth"), "attribute truth is None, no text"),
        (lambda file: file.attrs.create("truth", [1, 2]), r"attribute truth is array\(\[1, 2\]\), no text"),
        (renamed, "its content has digest"),
        (twice, "holds a frame twice"),
        (unstored, "whole_mm does not say where depth is stored"),
        (lambda file: file.attrs.create("stand_in", np.bytes_(b"-")), "its content has digest"),
    ],
)
def test_hostile_files(tmp_path: Path, whole: bytes, edit: Callable[[Any], None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(edited(tmp_path, whole, edit))


def test_depth_that_is_not_stored_is_not_read_as_unknown(tmp_path: Path, whole: bytes) -> None:
    def exchanged(file: Any) -> None:
        file["whole_mm"][:2] = file["whole_mm"][:2][::-1]

    data = opened(edited(tmp_path, whole, exchanged))
    frames = every(Source())
    for frame in frames[:2]:
        with pytest.raises(DataError, match=f"{frame.frame}: cannot be read .its depth is not stored"):
            data.read(frame)
    assert same(data.read(frames[2]), Source().read(frames[2]))


def test_other_files_and_other_versions(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "rooms.h5"
    assert not PackedFrames.recognise(path)
    assert not PackedFrames.recognise(tmp_path)
    path.write_bytes(whole)
    assert PackedFrames.recognise(path)
    path.write_bytes(whole.replace(b"format 1", b"format 9", 1))
    with pytest.raises(DataError, match=r"expected a spd-bench packed frames, format 1, found .* format 9"):
        opened(path)
    with h5py.File(path, "w") as file:
        file["rgb"] = np.zeros((1, *SIZE, 3), np.uint8)
    assert not PackedFrames.recognise(path)
    with pytest.raises(DataError, match="found another file"):
        opened(path)
    path.write_bytes(HEADER)
    with pytest.raises(DataError, match="cannot be read"):
        opened(path)
    path.unlink()
    with pytest.raises(DataError, match="there is no packed file"):
        opened(path)


def test_a_frame_that_was_exchanged_is_found_by_its_digest(tmp_path: Path, whole: bytes) -> None:
    def exchange(file: Any) -> None:
        file["rgb"][7] = file["rgb"][8]

    path = edited(tmp_path, whole, exchange)
    frame = every(Source())[7]
    opened(path).read(frame)  # its checksum is right
    with pytest.raises(DataError, match="train/é 7: not the frame that was packed"):
        opened(path).read_verified(frame)
    seen: list[int] = []
    with pytest.raises(DataError, match="not the frame that was packed"):
        packing.verify(path, lambda done, total: seen.append(done))
    assert seen == list(range(1, 8))


# processes


def test_handles_do_not_cross_processes(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "rooms.h5"
    path.write_bytes(whole)
    data, frame = opened(path), every(Source())[5]
    expected = data.read(frame)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 our own
    assert not copy._open
    assert same(copy.read(frame), expected)
    assert in_child(lambda: None if same(data.read(frame), expected) else os._exit(1)) == 0
    assert same(data.read(frame), expected)


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "rooms.h5"
    path.write_bytes(whole)
    copy = pickle.loads(pickle.dumps(opened(path)))  # noqa: S301 our own
    path.unlink()
    source = Source()
    source.truth = "raw"
    pack(path, source)
    with pytest.raises(DataError, match="another pack has been put in its place"):
        copy.read(every(source)[0])


def test_frames_of_other_data_sets_are_refused(tmp_path: Path) -> None:
    data = opened(pack(tmp_path / "rooms.h5").path)
    with pytest.raises(ConfigError, match='no frame "none"'):
        data.read(FrameId("none", "none"))


class TestPackedFrames(DatasetContract):
    component = PackedFrames

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path, whole: bytes) -> None:
        (tmp_path / "rooms.h5").write_bytes(whole)
        self.options = {"root": str(tmp_path / "rooms.h5")}
