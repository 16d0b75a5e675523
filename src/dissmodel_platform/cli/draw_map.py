"""Draw the map of flooded cells.

Run by the Python of the model's environment, which has the geospatial libraries:
``python draw_map.py RESULT.gpkg MAP.png``.
"""

import sys

import geopandas
import matplotlib
from matplotlib import pyplot
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

LAND = "#e9e4d4"
SEA = "#cfe3ee"


def draw(result: str, picture: str) -> None:
    """Draw the year in which each cell flooded (column ``year_flooded``; 0: sea from the start)."""
    cells = geopandas.read_file(result)
    year = cells["year_flooded"]
    last = int(max(1, year.max()))
    figure, axes = pyplot.subplots(figsize=(9, 6.2), layout="constrained")
    cells[year.isna()].plot(ax=axes, color=LAND)
    cells[year == 0].plot(ax=axes, color=SEA)
    flooded = cells[year > 0]
    colours = ListedColormap(matplotlib.colormaps["plasma_r"].resampled(last + 1).colors[1:])
    norm = BoundaryNorm([bound + 0.5 for bound in range(last + 1)], last)
    if len(flooded):
        flooded.plot(
            ax=axes,
            column="year_flooded",
            cmap=colours,
            norm=norm,
            edgecolor="black",
            linewidth=0.3,
        )
    figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, label="year of flooding", ticks=range(1, last + 1),
        shrink=0.8,
    )  # fmt: skip
    axes.legend(
        handles=[Patch(color=SEA, label="sea in year 0"), Patch(color=LAND, label="dry land")],
        loc="lower left",
    )
    axes.set_title(f"Salish Sea: {len(flooded)} cells flooded by year {last}")
    axes.set_xlabel("longitude (°)")
    axes.set_ylabel("latitude (°)")
    axes.set_aspect(1.5)  # about 1 / cos(49°): a degree of longitude is that much shorter
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
