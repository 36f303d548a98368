"""Why jobs failed in one session, in this process or in another one that shares the session's jobs."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from spd_bench.errors import OUT_OF_MEMORY, DataError, ResourceError, SpdError, shortage
from spd_bench.process.watch import Watch
from spd_bench.run.folder import RunFolder
from spd_bench.run.planning.quarantine import undisturbed
from spd_bench.store import files, records
from spd_bench.store.run_root import FAILED, FailureRecord


class Failures:
    """Causes of failed jobs, by the identity of the training; at first those that ended the process before this one."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._causes = dict(watch.given_up)

    def cause(self, folder: RunFolder) -> str:
        """Why a job has failed in this session, here or in another process that shares its jobs; "" if it has not."""
        key = folder.job.train_id
        if key not in self._causes and self.watch.session:
            left = records.find(folder.path / FAILED, FailureRecord)
            if left is not None and left["session"] == self.watch.session:
                self._causes[key] = left["cause"]
        return self._causes.get(key, "")

    def share(self, folder: RunFolder) -> None:
        """Writes the cause for other processes of this session, which then do not try the job again."""
        if self.watch.session:
            record = FailureRecord(cause=self._causes[folder.job.train_id], session=self.watch.session)
            records.write_record(folder.path / FAILED, record)

    @contextmanager
    def caught(self, folder: RunFolder) -> Iterator[None]:
        """Keeps what a job raises inside the block as its failure.

        Raises DataError and ResourceError, which every other job would meet too, and Stopped.
        """
        try:
            with undisturbed():
                yield
        except (DataError, ResourceError):
            raise
        except (Exception, SystemExit) as error:  # a component may call sys.exit
            self.watch.check()  # the end of helper processes after a wish to stop is no failure of the job
            self.keep(folder, error)

    def keep(self, folder: RunFolder, error: BaseException) -> None:
        """Keeps why a job failed: an `SpdError` as a line, any other exception also as a traceback in failure.txt.

        Raises ResourceError for a full disk, which every other job would meet too. Lack of memory ends a worker
        process: the memory of a failed job may not come back.
        """
        lacks = shortage(error)
        if lacks is not None and not lacks.message.startswith(OUT_OF_MEMORY):
            raise lacks from error
        if lacks is not None:
            self.watch.ran_out_of_memory(lacks.message, {folder.job.train_id: folder.job.name})
        key = folder.job.train_id
        if isinstance(error, SpdError) or lacks is not None:
            self._causes[key] = str(lacks or error).splitlines()[0]
        else:
            files.write_text(folder.path / "failure.txt", "".join(traceback.format_exception(error)))
            self._causes[key] = f"{type(error).__name__}: {error}"
