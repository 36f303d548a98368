"""The server: NiceGUI's application behind the guard, on a loopback socket that is bound before anything is loaded."""

import secrets
import socket
import warnings
from collections.abc import Callable, Sequence

from spd_bench.errors import ConfigError
from spd_bench.explore.frames import KnownImage
from spd_bench.explore.guard import Guard
from spd_bench.explore.models import Models
from spd_bench.explore.pictures import MOST_BYTES, Pictures

HOST = "127.0.0.1"
FORM_BYTES = 64 * 1024
"""What a form adds to the file that it carries."""


def bound(port: int) -> socket.socket:
    """A socket on this machine alone; port 0 means any free one. ConfigError for one that is taken or not allowed."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen there ({error.strerror})", where=f"--port {port}", hint="leave --port away for a free one"
        ) from None
    return listening


def serve(
    listening: socket.socket,
    models: Models,
    known: Sequence[KnownImage],
    problems: Sequence[str],
    tell: Callable[[str], None],
) -> None:
    """Serves pages until Ctrl-C. tell: gets the address, with the token in it, once pages are answered."""
    import uvicorn
    from fastapi import FastAPI, Response
    from nicegui import ui

    from spd_bench.explore.page import TITLE, ExplorePage

    port, token, pictures = listening.getsockname()[1], secrets.token_urlsafe(24), Pictures()
    app = FastAPI(openapi_url=None)

    def picture(key: str) -> Response:
        found = pictures.get(key)
        if found is None:
            return Response(status_code=404)
        return Response(found.jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})

    async def page() -> None:
        shown = ExplorePage(models, pictures, known, problems)
        await ui.context.client.connected()
        await shown.begin()

    app.add_api_route("/picture/{key}.jpg", picture)
    ui.page("/")(page)
    app.router.on_startup.append(lambda: tell(f"http://{HOST}:{port}/?token={token}"))
    ui.run_with(app, title=TITLE, dark=None, tailwind=False, show_welcome_message=False, reconnect_timeout=30)
    guard = Guard(app, token=token, cookie=f"spd_bench_explore_{port}", most_bytes=MOST_BYTES + FORM_BYTES)
    config = uvicorn.Config(guard, log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="on")
    with warnings.catch_warnings():
        # NiceGUI looks at every object of the process when it starts, among them a deprecated one of PyTorch
        warnings.filterwarnings("ignore", "`torch.distributed.reduce_op`", FutureWarning)
        uvicorn.Server(config).run(sockets=[listening])
