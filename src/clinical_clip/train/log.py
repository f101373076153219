"""What a run writes while it goes: CSV, TensorBoard, a progress bar; curves as PNG at its end."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from clinical_clip.atomic import replace_file
from clinical_clip.errors import MissingDependency

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["ProgressBar", "RunLog", "Table", "plot_curves", "read_table"]


class Table:
    """A CSV of numbers that only grows, a line flushed a row; resumed, rows past ``step`` are dropped."""

    def __init__(self, path: Path, columns: tuple[str, ...], *, step: int) -> None:
        kept = [row for row in read_table(path) if row["step"] <= step]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in kept)
        with replace_file(path) as stream:
            stream.write(text.getvalue().encode())
        self._stream = path.open("a", encoding="utf-8", newline="")
        self._columns = columns

    def write(self, row: Mapping[str, float | None]) -> None:
        """Append one row; columns it lacks stay empty."""
        writer = csv.writer(self._stream, lineterminator="\n")
        writer.writerow([_cell(row.get(name)) for name in self._columns])
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_table(path: Path) -> list[dict[str, float]]:
    """Rows of a ``Table``; empty cells are NaN, a torn last line is dropped."""
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            try:
                rows.append({name: float(cell) if cell else math.nan for name, cell in row.items()})
            except (TypeError, ValueError):
                break
    return rows


def _cell(value: float | None) -> str:
    """The shortest text that reads back to the same number.

    >>> _cell(0.1), _cell(3.0), _cell(None)
    ('0.1', '3', '')
    """
    if value is None or math.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


class RunLog:
    """``steps.csv``, ``validation.csv`` and TensorBoard events of one run."""

    STEP = ("step", "epoch", "loss", "lr", "logit_scale", "gradient_norm", "pairs_per_s", "truncated")

    def __init__(self, folder: Path, *, step: int, validation_columns: tuple[str, ...]) -> None:
        self._steps = Table(folder / "steps.csv", self.STEP, step=step)
        columns = ("step", "epoch", *validation_columns)
        self._validation = Table(folder / "validation.csv", columns, step=step)
        self._events = _summary_writer(folder / "tensorboard", step)

    def step(self, row: Mapping[str, float | None]) -> None:
        """One optimizer step."""
        self._steps.write(row)
        self._scalars("train", row)

    def validation(self, row: Mapping[str, float | None]) -> None:
        """One validation."""
        self._validation.write(row)
        self._scalars("validation", row)

    def _scalars(self, part: str, row: Mapping[str, float | None]) -> None:
        if self._events is None:
            return
        for name, value in row.items():
            if name != "step" and value is not None:
                self._events.add_scalar(f"{part}/{name}", value, int(row["step"] or 0))

    def close(self) -> None:
        """Close every file."""
        self._steps.close()
        self._validation.close()
        if self._events is not None:
            self._events.close()


def _summary_writer(folder: Path, step: int) -> SummaryWriter | None:
    """TensorBoard's writer, or None where it is not installed: the CSV has the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class ProgressBar:
    """Steps, pairs/s, time left and the last loss, on standard error; silent where that is no terminal."""

    def __init__(self, *, total_steps: int, step: int, shown: bool) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if shown:
            self._progress, self._task = _bar(total_steps, step)

    def __enter__(self) -> ProgressBar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, *, step: int, epoch: int, loss: float, pairs_per_s: float) -> None:
        """Show optimizer step ``step`` as done."""
        if self._progress is not None and self._task is not None:
            text = f"epoch {epoch + 1}  loss {loss:.3f}  {pairs_per_s:,.1f} pairs/s"
            self._progress.update(self._task, completed=step, description=text)


def _bar(total_steps: int, step: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    return progress, progress.add_task("starts", total=total_steps, completed=step)


def plot_curves(folder: Path, path: Path) -> None:
    """Loss of training and validation, and the retrieval metrics, over steps, as PNG.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency(
            "matplotlib is needed for the curves", hint="pip install 'clinical-clip[train]'"
        ) from None
    steps, validation = read_table(folder / "steps.csv"), read_table(folder / "validation.csv")
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in steps], [row["loss"] for row in steps], lw=0.6, label="training")
    at = [row["step"] for row in validation]
    left.plot(at, [row["loss"] for row in validation], "o-", label="validation, batches in eval mode")
    left.set(xlabel="optimizer step", ylabel="loss", title="Loss")
    left.legend()
    for name in [name for name in (validation[0] if validation else {}) if "@" in name]:
        right.plot(at, [100 * row[name] for row in validation], "o-", label=name.replace("_", " "))
    right.set(xlabel="optimizer step", ylabel="%", title="Retrieval among the validation pairs")
    if right.lines:
        right.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    with replace_file(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
