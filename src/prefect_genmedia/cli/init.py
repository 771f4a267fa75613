"""`prefect-genmedia init`: a small project to begin with."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from prefect_genmedia.cli.console import command_console, stop

FILES = {
    "flow.py": "flow.py.txt",
    "prefect.yaml": "prefect.yaml.txt",
    ".env.example": "env.example.txt",
    "rows.csv": "rows.csv.txt",
}
"""The project's files, and the templates that they are copies of."""

_NEXT = """
Next, in {folder}:
  cp .env.example .env                       your key, or the simulator's
  set -a; source .env; set +a
  prefect-genmedia make jimeng --prompt "a lake at dawn" --output lake.mp4
  python flow.py                             the same as a flow run
  prefect-genmedia batch rows.csv --dry-run  what a table would cost
  prefect deploy --all                       the flow on a schedule
"""


def init(folder: Path = Path(), /) -> None:
    """Write the project; what `--help` says of it stands in `cli/app.py`.

    Parameters
    ----------
    folder
        Where to; it is made if it does not exist.
    """
    present = [name for name in FILES if (folder / name).exists()]
    if present:
        stop(f"{folder.absolute()} already has {', '.join(present)}: nothing was written. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    templates = resources.files("prefect_genmedia.cli") / "project"
    for name, template in FILES.items():
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write((templates / template).read_text("utf-8"))
    console = command_console()
    console.print(f"Wrote {', '.join(FILES)}.", markup=False, highlight=False, soft_wrap=True)
    console.print(_NEXT.format(folder=folder.absolute()), markup=False, highlight=False, soft_wrap=True, end="")
