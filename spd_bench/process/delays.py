"""How long a process and its children could have run while the machine was busy with others."""

from pathlib import Path


class Delays:
    """Time that the most delayed of these processes waited for a processor since `restart`; 0 but on Linux."""

    def __init__(self, pid: int | None) -> None:
        """pid: the process; None for none."""
        self._pid = pid
        self._before: dict[int, float] = {}
        self.restart()

    def restart(self) -> None:
        """Counts from now on."""
        self._before = self._waited()

    def seconds(self) -> float:
        """Seconds since `restart`."""
        return max((now - self._before.get(pid, 0.0) for pid, now in self._waited().items()), default=0.0)

    def _waited(self) -> dict[int, float]:
        """Process → seconds that its main thread has waited for a processor since it began."""
        if self._pid is None:
            return {}
        found = {}
        for pid in (self._pid, *_children(self._pid)):
            try:
                found[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
            except (OSError, ValueError, IndexError):
                continue
        return found


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []
