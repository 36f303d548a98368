"""The picture's depths as a cloud of points that turns, made when it is asked for."""

from typing import Any

from nicegui import ui

from spd_bench.explore import cloud
from spd_bench.explore.picture_panel import Do
from spd_bench.explore.session import Session

HEIGHT_PX = 320


class CloudPanel:
    """A card with a button, and the cloud that it makes."""

    def __init__(self, session: Session, do: Do) -> None:
        self._session = session
        self._made: cloud.Cloud | None = None
        with ui.element("section").classes("card"):
            ui.html("<h2>Point cloud</h2>", sanitize=False)
            with ui.element("div").classes("bar"):
                self._run = (
                    ui.select([], label="of").props("dense outlined options-dense for=cloud-run").classes("grow")
                )
                show = ui.button("Show", icon="scatter_plot", on_click=lambda: do(answer=self._show))
                show.props("outline dense no-caps id=cloud")
            self._place = ui.element("div").style("width: 100%").props("id=cloud-place")
        self.offer()

    def offer(self) -> None:
        """Offers the chosen runs."""
        chosen = list(self._session.chosen)
        kept = self._run.value if self._run.value in chosen else next(iter(chosen), None)
        self._run.set_options(chosen, value=kept)

    def clear(self) -> None:
        """Takes the cloud away: it is of another picture."""
        self._place.clear()

    async def _show(self) -> None:
        if self._run.value is None:
            return
        made = await self._session.cloud(self._run.value)
        self._place.clear()
        with self._place:
            scene = ui.scene(height=HEIGHT_PX, grid=False, background_color="#777777").style("width: 100%")
            with scene:
                scene.point_cloud(made.xyz_N3.tolist(), made.colour_N3.tolist(), point_size=made.size_m)
            self._look(scene, made, 0)
            ui.label("turn").classes("note").props("id=turn-label")
            slider = ui.slider(min=-180, max=180, step=5, value=0, on_change=lambda e: self._look(scene, made, e.value))
            slider.props("id=turn aria-labelledby=turn-label label")
            ui.label(
                f"{len(made.xyz_N3)} points by {self._run.value}; drag to turn, scroll to come nearer. The camera is "
                f"unknown: {cloud.FIELD_OF_VIEW_DEG:g}° across the width are assumed."
            ).classes("note")

    def _look(self, scene: Any, made: cloud.Cloud, turn_deg: float) -> None:
        x, y, z = cloud.orbit(made.middle, turn_deg=turn_deg, distance_m=made.distance_m)
        at = dict(zip(("look_at_x", "look_at_y", "look_at_z"), made.middle.tolist(), strict=True))
        scene.move_camera(x=x, y=y, z=z, **at, up_x=0, up_y=0, up_z=1, duration=0.1)
