"""`spd-bench data prepare`: any data set into one file that the data set `packed` reads (format: `data.packed`).

Frames are packed in parts, a fixed range of the source's frames each, built in memory and renamed into place in the
folder OUTPUT.parts with their SHA-256 in front. Whatever is killed at whatever moment, the same command goes on from
the parts that are whole. When all are there, their stored chunks are copied into one file, every frame of which is
read back and compared with its SHA-256 before the file gets its name. So the file is the same, byte for byte, for any
number of processes and interruptions.
"""

import io
import logging
import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spd_bench.api import SPLITS, DepthDataset, Frame, FrameId
from spd_bench.data.preflight import layout_of, open_dataset, refuse_malformed
from spd_bench.data.sets import packed
from spd_bench.data.sets.packed import PackedFrames, PackRecord
from spd_bench.errors import BusyError, ConfigError, DataError, ResourceError
from spd_bench.store import files, records, sealed
from spd_bench.store.removal import TEMPORARY, own_files, remove_own

log = logging.getLogger(__name__)

Row = tuple[str, FrameId]
"""A frame and its split."""
OnFrame = Callable[[int, int], None]

PART_FRAMES = 128
PART_BYTES = 64 * 2**20
"""Most frames of a part, and its most bytes before compression; they bound the memory of a process."""
RECORD = "source.json"
PART = r"part-[0-9]{5}\.h5"
"""Names of parts, as a regular expression."""
WHOLE = ".whole.h5.tmp"
GO_ON = "the same command goes on from here"
OTHER_NAME = "give another name, or delete it"


@dataclass(frozen=True)
class Packed:
    """A finished pack."""

    path: Path
    """Path of the packed file."""
    frames: int
    """Number of its frames."""
    bytes: int
    """Size of the file in bytes."""
    already: bool = False
    """True if the file was there before and was only verified."""
    found: int = 0
    """Number of frames that lay in finished parts of an earlier try."""

    def __str__(self) -> str:
        if self.already:
            return f"already packed: {self.frames} frames in {self.path}, {self.bytes / 1e6:.1f} MB"
        resumed = f", {self.found} of them from finished parts" if self.found else ""
        return f"packed {self.frames} frames into {self.path}, {self.bytes / 1e6:.1f} MB{resumed}"


def pack(
    path: Path,
    output: Path,
    *,
    dataset: str | None,
    options: Mapping[str, Any],
    workers: int,
    on_frame: OnFrame,
) -> Packed:
    """Packs the data set at `path`, as `pack_dataset`; `dataset` and `options` as for `preflight.open_dataset`."""
    if output.resolve() == path.resolve():
        raise ConfigError("this is the source itself", where=str(output), hint="give the pack another name")
    name = layout_of(path, dataset)
    return pack_dataset(open_dataset(name, path, options), output, name=name, workers=workers, on_frame=on_frame)


def pack_dataset(data: DepthDataset, output: Path, *, name: str, workers: int, on_frame: OnFrame) -> Packed:
    """Packs every split of a data set, registered as `name`, into `output`, read by `workers` processes.

    A pack that is there is verified too. on_frame(done, total) is called as frames are read, and once more from the
    start as they are verified.

    Raises:
        ConfigError: `output` is something else than this very pack, or parts of another one are left beside it.
        DataError: the source has no frames, a frame that cannot be read, a name twice, or frames of several sizes;
            or `output` is this very pack and damaged.
        ResourceError: the disk is too small, cannot be written, or a process died.
        BusyError: another process is packing there.
    """
    if workers < 1:
        raise ConfigError(f"expected at least one process, found {workers}", where="workers")
    output = Path(os.path.abspath(output))
    about = _about(data, name)
    with _lock(output):
        folder = output.with_name(f"{output.name}.parts")
        if output.exists():
            count = _same_pack(output, about, on_frame)
            if not (folder / RECORD).exists() or _recorded(folder)["identity"] == _identity(about):
                _delete(folder)
            return Packed(output, count, output.stat().st_size, already=True)
        remove_own(folder, [TEMPORARY], folder_too=False)
        plan = _plan(data, about, folder)
        missing = [part for part in plan.parts if not part.is_whole()]
        found = len(plan.rows) - sum(len(part.rows) for part in missing)
        _require_space(folder, plan.bytes_needed())
        _write_parts(data, missing, workers, lambda done: on_frame(found + done, len(plan.rows)))
        _publish(plan, output, on_frame)
        _delete(folder)
        return Packed(output, len(plan.rows), output.stat().st_size, found=found)


def verify(path: Path, on_frame: OnFrame) -> PackedFrames:
    """Compares every frame of a packed file with its SHA-256; DataError for the first that differs."""
    data = PackedFrames(PackedFrames.Config(root=str(path)))
    _verify(data, on_frame)
    return data


def _verify(data: PackedFrames, on_frame: OnFrame) -> None:
    frames = [frame for split in SPLITS for frame in data.frames(split)]
    for done, frame in enumerate(frames, start=1):
        data.read_verified(frame)
        on_frame(done, len(frames))


# ---------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class PackPart:
    """Some consecutive frames of the source, and the file that they are written to."""

    path: Path
    """Path of the part's file."""
    rows: Sequence[Row]
    """Its frames, each with its split, in the order of the source."""
    shape: tuple[int, int]
    """Rows and columns of every frame."""
    pack: str
    """SHA-256 over the source, the size and the frames of this part."""

    def is_whole(self) -> bool:
        """Whether its file is there, of this very pack, with the content that it was written with."""
        return sealed.is_whole(self.path, self.mark)

    @property
    def mark(self) -> str:
        """What its file says that it is."""
        return f"spd-bench part of pack {self.pack}"


@dataclass(frozen=True)
class _Plan:
    """What is packed and in which parts. frame_bytes: what the first frame takes, from which disk use is foreseen."""

    about: PackRecord
    rows: Sequence[Row]
    shape: tuple[int, int]
    frame_bytes: int
    parts: Sequence[PackPart]

    def bytes_needed(self) -> int:
        """Disk that this pack will still take at most: its parts and the file lie there together for a while."""
        present = sum(part.path.stat().st_size for part in self.parts if part.path.exists())
        return int(2 * 1.1 * self.frame_bytes * len(self.rows)) - present


def _about(data: DepthDataset, name: str) -> PackRecord:
    tools = ("spd-bench", "numpy", "h5py", "pillow")  # what decides which bytes come out
    return PackRecord(
        source=name,
        source_digest=data.digest(),
        description=data.describe(),
        truth=data.truth,
        stand_in=data.stand_in,
        versions=", ".join(f"{tool} {version(tool)}" for tool in tools),
    )


def _plan(data: DepthDataset, about: PackRecord, folder: Path) -> _Plan:
    """The parts of this pack; what it is made of is kept beside them, so that no others are taken for its own."""
    rows = [(split, frame) for split in SPLITS for frame in data.frames(split)]
    _refuse_names(rows, about)
    identity = _identity(about)
    if not (folder / RECORD).exists():
        measured = dict(zip(("height", "width", "frame_bytes"), _measure(data, rows[0]), strict=True))
        with _told(folder):
            records.write_record(folder / RECORD, {"identity": identity, **measured})
    known = _recorded(folder)
    _refuse_other_source(known["identity"], identity, folder)
    shape = (known["height"], known["width"])
    step = max(1, min(PART_FRAMES, PART_BYTES // (shape[0] * shape[1] * 7)))
    parts = []
    for index, first in enumerate(range(0, len(rows), step)):
        chosen = rows[first : first + step]
        pack_id = records.sha256([identity, shape, [[split, frame.frame, frame.scene] for split, frame in chosen]])
        parts.append(PackPart(folder / f"part-{index:05d}.h5", chosen, shape, pack_id))
    return _Plan(about, rows, shape, known["frame_bytes"], parts)


def _identity(about: PackRecord) -> dict[str, Any]:
    """What decides the bytes of the parts; the description may name the folder that the source lies in."""
    return {key: value for key, value in asdict(about).items() if key != "description"} | {"format": packed.FORMAT}


def _recorded(folder: Path) -> dict[str, Any]:
    """What the parts in a folder were made of, and their measures."""
    try:
        known = records.read_record(folder / RECORD)
        measures = {key: int(known[key]) for key in ("height", "width", "frame_bytes")}
        return {"identity": dict(known["identity"]), **measures}
    except (records.Unsound, ValueError, KeyError, TypeError) as error:
        what = error.message if isinstance(error, records.Unsound) else error
        raise ConfigError(
            f"cannot be read ({what})", where=str(folder / RECORD), hint="delete that folder to start anew"
        ) from error


def _refuse_names(rows: Sequence[Row], about: PackRecord) -> None:
    """A pack finds a frame by its name, and keeps names as bytes that end where they end."""
    if not rows:
        raise DataError("has no frames", where=about.description)
    seen: set[str] = set()
    for split, frame in rows:
        if frame.frame in seen:
            raise DataError(f"frame {frame.frame} is there twice, the second time in {split}", where=about.description)
        if "\0" in frame.frame + frame.scene:
            raise DataError(f"frame {frame.frame!r} of scene {frame.scene!r} has a NUL", where=about.description)
        seen.add(frame.frame)


def _refuse_other_source(known: Mapping[str, Any], mine: Mapping[str, Any], folder: Path) -> None:
    if differing := [key for key in mine if known.get(key) != mine[key]]:
        key = differing[0]
        raise ConfigError(
            f"these are parts of another pack: {key} was {known.get(key)}, now it is {mine[key]}",
            where=str(folder),
            hint="delete that folder to start anew, or give the options of then to go on",
        )


def _measure(data: DepthDataset, row: Row) -> tuple[int, int, int]:
    """Height and width of a frame, and what it takes in a pack."""
    frame = data.read(row[1])
    refuse_malformed(frame, f"frame {row[1].frame}")
    height, width = frame.depth_m_HW.shape
    return height, width, len(_content([(row[1], frame)], 1, (height, width))) - sealed.SEAL_BYTES


def _same_pack(output: Path, about: PackRecord, on_frame: OnFrame) -> int:
    """Number of frames of a file that is this very pack already, every one of them read and compared.

    ConfigError if it is anything else, DataError if a frame is damaged.
    """
    try:
        data = PackedFrames(PackedFrames.Config(root=str(output)))
    except DataError as error:
        raise ConfigError(f"is there and no whole pack: {error.message}", where=str(output), hint=OTHER_NAME) from error
    for key in ("source", "source_digest", "truth", "stand_in"):
        was, now = getattr(data.about, key), getattr(about, key)
        if was != now:
            raise ConfigError(
                f"is there and another pack: {key} is {was}, that of the source {now}",
                where=str(output),
                hint=OTHER_NAME,
            )
    try:
        _verify(data, on_frame)
    except DataError as error:
        raise DataError(
            f"is packed already, and damaged: {error.message}",
            where=error.where,
            hint="delete it; the same command then packs it anew",
        ) from error
    return sum(len(data.frames(split)) for split in SPLITS)


# --------------------------------------------------------------------------------------------------------- the parts


def _write_parts(data: DepthDataset, parts: Sequence[PackPart], workers: int, on_done: Callable[[int], None]) -> None:
    """Writes parts, each whole or not at all, in this process or in several."""
    done = 0
    for count in _in_turn(data, parts) if workers == 1 else _in_processes(data, parts, workers):
        done += count
        on_done(done)


def _in_turn(data: DepthDataset, parts: Sequence[PackPart]) -> Iterator[int]:
    return (_write(data, part) for part in parts)


def _in_processes(data: DepthDataset, parts: Sequence[PackPart], workers: int) -> Iterator[int]:
    # The data set is pickled once and not with each part: it knows all its frames.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        min(workers, max(1, len(parts))), context, initializer=_start, initargs=(pickle.dumps(data),)
    )
    try:
        for future in as_completed([executor.submit(_write_started, part) for part in parts]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a packing process died, perhaps for want of memory",
            where=str(parts[0].path.parent),
            hint=f"{GO_ON}; fewer workers take less memory",
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


_started: list[DepthDataset] = []
"""In a packing process: the data set that it reads."""


def _start(pickled: bytes) -> None:
    """Ctrl-C reaches the whole process group, the parent alone ends the work; where it is killed, this process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _started.append(pickle.loads(pickled))  # noqa: S301 our own parent's


def _write_started(part: PackPart) -> int:
    return _write(_started[0], part)


def _write(data: DepthDataset, part: PackPart) -> int:
    """Reads a part's frames and publishes its file; the number of frames."""
    frames = ((name, data.read(name)) for _, name in part.rows)
    content = _content(frames, len(part.rows), part.shape)
    with _told(part.path):
        sealed.write_hdf5(part.path, part.mark, content)
    return len(part.rows)


def _content(frames: Iterable[tuple[FrameId, Frame]], count: int, shape: tuple[int, int]) -> bytes:
    """A part as HDF5, not sealed yet. Raises DataError for a malformed frame and for one of another shape."""
    import h5py

    buffer = io.BytesIO()
    digests, whole_mm = [], np.zeros(count, np.uint8)
    with h5py.File(buffer, "w", libver=packed.LIBVER, userblock_size=sealed.SEAL_BYTES) as file:
        packed.create_arrays(file, count, shape)
        for i, (name, frame) in enumerate(frames):
            _refuse_unfit(frame, shape, f"frame {name.frame}")
            depth_mm_HW = packed.as_millimetres(frame.depth_m_HW)
            whole_mm[i] = depth_mm_HW is not None
            file["rgb"][i] = frame.image_HW3
            if depth_mm_HW is not None:
                file["depth_mm"][i] = depth_mm_HW
            else:
                file["depth_m"][i] = frame.depth_m_HW
            digests.append(packed.frame_digest(frame))
        packed.create_table(file, "sha256", digests)
        file.create_dataset("whole_mm", data=whole_mm, chunks=True, fletcher32=True)
    return buffer.getvalue()


def _refuse_unfit(frame: Frame, shape: tuple[int, int], where: str) -> None:
    refuse_malformed(frame, where)
    height, width = frame.depth_m_HW.shape
    if (height, width) != shape:
        raise DataError(
            f"expected {shape[0]}×{shape[1]} like the first frame, found {height}×{width}",
            where=where,
            hint="a pack holds frames of one size; pack the folders of each size on their own",
        )


# ---------------------------------------------------------------------------------------------------------- the file


def _publish(plan: _Plan, output: Path, on_frame: OnFrame) -> None:
    """The parts as one file under its final name, after every frame was read back from it."""
    beside = plan.parts[0].path.with_name(WHOLE)
    _require_space(beside.parent, sum(part.path.stat().st_size for part in plan.parts))
    with _told(output):
        _assemble(plan, beside)
        with beside.open("r+b") as file:
            file.write(packed.HEADER)
            file.flush()
            os.fsync(file.fileno())
    verify(beside, on_frame)
    with _told(output):
        files.publish(beside, output)  # the parts are deleted next: the name has to be on disk before


def _assemble(plan: _Plan, target: Path) -> None:
    """Copies the stored chunks of all parts, without decoding them, and writes the tables."""
    import h5py

    with h5py.File(target, "w", libver=packed.LIBVER, userblock_size=len(packed.HEADER)) as file:
        packed.create_arrays(file, len(plan.rows), plan.shape)
        sha256: list[str] = []
        whole_mm: list[int] = []
        for part in plan.parts:
            with h5py.File(part.path, "r") as source:
                stored = source["whole_mm"][()].tolist()
                for i, mm in enumerate(stored):
                    for name in ("rgb", "depth_mm" if mm else "depth_m"):
                        _copy_chunk(source[name].id, i, file[name].id, len(whole_mm) + i)
                whole_mm += stored
                sha256 += (raw.decode() for raw in source["sha256"][()].tolist())
        columns = {
            "frame": [frame.frame for _, frame in plan.rows],
            "scene": [frame.scene for _, frame in plan.rows],
            "split": [split for split, _ in plan.rows],
            "sha256": sha256,
        }
        for name, texts in columns.items():
            packed.create_table(file, name, texts)
        file.create_dataset("whole_mm", data=np.array(whole_mm, np.uint8), chunks=True, fletcher32=True)
        rows = [(split, frame, sha) for (split, frame), sha in zip(plan.rows, sha256, strict=True)]
        packed.write_about(file, plan.about, packed.content_digest(plan.about, plan.shape, rows))


def _copy_chunk(source: Any, i: int, target: Any, row: int) -> None:
    rest = (0,) * (target.rank - 1)
    mask, raw = source.read_direct_chunk((i, *rest))
    target.write_direct_chunk((row, *rest), raw, mask)


# ------------------------------------------------------------------------------------------------------- the machine


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Keeps other processes from packing into the same file. Its own file stays: a lock must not be deleted."""
    from filelock import FileLock, Timeout

    with _told(output):
        files.make_folder(output.parent)
        lock = FileLock(output.with_name(f".{output.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BusyError("another process is packing there", where=str(output)) from None
    try:
        yield
    finally:
        lock.release()


def _require_space(folder: Path, needed: int) -> None:
    hint = f"free some space, or give an output on another disk; {GO_ON}"
    sealed.require_space(folder, needed, what="packing", hint=hint)


def _told(where: Path) -> AbstractContextManager[None]:
    return files.translate_os_errors(where, hint=f"free space or give another output; {GO_ON}")


def _delete(folder: Path) -> None:
    """Removes the parts of a pack that is whole, their record last, and the folder unless others keep files in it."""
    if own_files(folder, [re.escape(RECORD)]):
        remove_own(folder, [TEMPORARY, PART], folder_too=False)
        files.sync_folder(folder)  # parts that come back after a power cut still have their record
        remove_own(folder, [re.escape(RECORD)], folder_too=False)
    remove_own(folder, [])
