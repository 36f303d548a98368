"""`spd-bench explore`: which runs, a first one that loads, and the server."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from spd_bench.ask.load import load_folder
from spd_bench.ask.model import RunModel
from spd_bench.errors import ConfigError
from spd_bench.explore.frames import known_images
from spd_bench.explore.models import Models
from spd_bench.explore.offers import Offer, offers
from spd_bench.explore.serve import bound, serve
from spd_bench.model.device import device_named


def explore(
    names: Sequence[str], *, root: Path, seed: int | None, device: str, port: int, tell: Callable[[str], None]
) -> None:
    """Serves the page until Ctrl-C.

    names: as for `offers.offers`. port: 0 for any free one. tell: gets lines for people, among them the address.

    Raises ConfigError where the extra `explore` is not installed, no run is meant, or the port is taken; whatever
    loading raises, for the runs that are named, or for the first one where none is.
    """
    if find_spec("nicegui") is None:
        raise ConfigError("the page needs the package nicegui, not installed", hint="pip install 'spd-bench[explore]'")
    on = device_named(device)
    offered = offers(names, root=root, seed=seed)
    loaded = {offer.label: load_folder(offer.folder, device=on) for offer in (offered if names else offered[:1])}

    def load(offer: Offer) -> RunModel:
        return loaded.get(offer.label) or load_folder(offer.folder, device=on)

    listening = bound(port)
    known, problems = known_images(offered)
    tell(f"runs: {', '.join(offer.label for offer in offered)}; {len(known)} test images")
    for problem in problems:
        tell(problem)
    serve(listening, Models(offered, load), known, problems, lambda url: tell(f"open {url}\nCtrl-C ends it"))
