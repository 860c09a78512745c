"""Pictures from a dataset on the Hub, or from parquet files, through the `datasets` library."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, TunerError
from .folder import locate, natural
from .listing import FileReader, Given, Listing, Picture, Refused, shown, some

if TYPE_CHECKING:
    from datasets import Dataset

    from .pair_files import PairListing
    from .sources import PairSource, Source

EXTRA = "pip install 'diffusion-tuner[data]'"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MAX_ALTERNATIVES = 100


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads the encoded picture of one row."""

    dataset: Dataset
    row: int
    column: str
    name: str

    def __call__(self) -> bytes:
        """Raises: DataError naming the row."""
        value = self.dataset[self.row][self.column]
        if not isinstance(value, Mapping):
            raise DataError(f"{self.name}: no picture")
        if value.get("bytes") is not None:
            return value["bytes"]
        if not value.get("path"):
            raise DataError(f"{self.name}: no picture")
        return FileReader(_downloaded(value["path"], self.name), self.name)()


def list_rows(source: Source, label: str) -> Listing:
    """The rows of `source.dataset`, in their order, with the captions of its caption column.

    Raises: TunerError if the extra is missing; DataError for a dataset, split or column that cannot be had.
    """
    assert source.dataset is not None
    dataset = _with_bytes(_load(source, label), source, label, "image_column")
    texts = {column: _captions(dataset, source, column, label) for column in source.columns}
    listing = Listing()
    origin = f"{shown(source.dataset)}[{source.split}]"
    for row in range(len(dataset)):
        name = f"{origin} row {row}"
        try:
            found = {c: _alternatives(values[row], c) for c, values in texts.items() if values is not None}
        except TypeError as error:
            listing.refused.append(Refused(name, str(error)))
            continue
        picture = RowReader(dataset, row, source.image_column, name)
        if source.captions is not None:
            mix = tuple(Given(c.place, c.weight, captions=found[c.column]) for c in source.captions if c.column)
            listing.pictures.append(Picture(name, picture, mix=mix))
            continue
        given = found.get(source.caption_column, ())
        listing.pictures.append(Picture(name, picture, captions=given, caption_from="column" if given else "none"))
    if source.captions is None and texts[source.caption_column] is None:
        there = f"there is {some(dataset.column_names)}"
        listing.notes.append(f"{label}: no column {source.caption_column!r} ({there}), so {label}.caption counts")
    return listing


def list_row_pairs(source: PairSource, label: str) -> PairListing:
    """The pairs of `source.dataset`, one a row, in their order.

    Raises: as `list_rows`.
    """
    from .pair_files import Pair, PairListing, swapped, ties_note

    dataset = _load(source, label)
    for key in ("chosen_column", "rejected_column"):
        dataset = _with_bytes(dataset, source, label, key)
    texts = _captions(dataset, source, source.caption_column, label)
    labels = None
    if source.label_column is not None:
        _require(dataset, source.label_column, f"{label}.label_column", "the one with the preference, or leave it out")
        labels = list(dataset.select_columns([source.label_column])[:][source.label_column])
    result, ties = PairListing(), []
    origin = f"{shown(str(source.dataset))}[{source.split}]"
    for row in range(len(dataset)):
        name = f"{origin} row {row}"
        try:
            found = _alternatives(texts[row], source.caption_column) if texts is not None else ()
            other = swapped(labels[row]) if labels is not None else False
        except TypeError as error:
            result.refused.append(Refused(name, str(error)))
            continue
        if other is None:
            ties.append(f"row {row}")
            continue
        columns = (source.chosen_column, source.rejected_column)
        readers = [RowReader(dataset, row, column, f"{name} {column}") for column in columns]
        chosen, rejected = readers[::-1] if other else readers
        told = Picture(chosen.name, chosen, captions=found, caption_from="column" if found else "none")
        result.pairs.append(Pair(name, told, Picture(rejected.name, rejected)))
    result.notes += ties_note(origin, ties)
    return result


def _alternatives(value: Any, column: str) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        if len(value) > _MAX_ALTERNATIVES:
            raise TypeError(f"{column!r} holds {len(value)} captions; the limit is {_MAX_ALTERNATIVES}")
        return tuple(value)
    raise TypeError(f"{column!r} holds a {type(value).__name__}; it must be text or a list of texts")


def _captions(dataset: Dataset, source: Source, column: str, label: str) -> list[Any] | None:
    """A caption column, or None where the recipe's caption stands in for one that is not there."""
    if column in dataset.column_names:
        return list(dataset.select_columns([column])[:][column])
    if source.caption is not None and not {"caption_column", "captions"} & source.model_fields_set:
        return None
    there, key = some(dataset.column_names), "captions" if source.captions else "caption_column"
    raise DataError(
        f"{label}.{key}: the dataset has no column {column!r}; there is {there}",
        f"set {label}.{key} to the one with the captions, or give {label}.caption",
    )


def _with_bytes(dataset: Dataset, source: Source, label: str, key: str) -> Dataset:
    """The dataset with the picture column that `key` of the source names as encoded bytes, decoded by nobody but us."""
    from datasets import Image

    column = getattr(source, key)
    _require(dataset, column, f"{label}.{key}", "the one with the pictures")
    try:
        return dataset.cast_column(column, Image(decode=False))
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's errors are kinds of these
        kind = dataset.features[column]
        raise DataError(f"{label}.{key}: the column {column!r} holds no pictures ({kind})"[:400]) from error


def _require(dataset: Dataset, column: str, key: str, wanted: str) -> None:
    if column not in dataset.column_names:
        raise DataError(
            f"{key}: the dataset has no column {column!r}; there is {some(dataset.column_names)}",
            f"set {key} to {wanted}",
        )


def _load(source: Source, label: str) -> Dataset:
    try:
        import datasets
    except ImportError as error:
        raise TunerError(f"{label}.dataset needs the package `datasets`, which is not installed", EXTRA) from error
    key, given = f"{label}.dataset", str(source.dataset)
    with _no_bars(datasets):
        files = _parquet_files(given, key)
        try:
            if files:
                names = {source.split: [str(file) for file in files]}
                found = datasets.load_dataset("parquet", data_files=names, split=source.split)
            elif not _HUB_ID.fullmatch(given):
                raise DataError(
                    f"{key}: {shown(given)} is no dataset id (owner/name), and no .parquet file or folder that is there"
                )
            else:
                found = datasets.load_dataset(given, split=source.split, revision=source.revision)
        except _faults() as error:
            raise _explain(error, source, key, local=bool(files)) from error
    if not isinstance(found, datasets.Dataset):
        raise DataError(f"{key}: {shown(given)} has no single split {source.split!r}")
    return found


def _parquet_files(given: str, key: str) -> list[Path]:
    """The local parquet files that `given` names; none where it is a Hub id."""
    if given.lower().endswith(".parquet"):
        return [locate(given, key)]
    try:
        place = Path(given).expanduser()
        if not place.is_dir():
            return []
    except (OSError, ValueError, RuntimeError):  # no path at all; the Hub's rules for ids decide
        return []
    files = sorted((f for f in place.rglob("*") if f.suffix.lower() == ".parquet" and f.is_file()), key=natural)
    if not files:
        raise DataError(
            f"{key}: the folder {shown(given)} has no .parquet file in it", "a folder of pictures goes under path"
        )
    return files


def _downloaded(path: str, name: str) -> Path:
    """A picture that the library downloaded beside the table. A path to anywhere else is not followed.

    Raises: DataError if it leads out of the caches of `datasets` and the Hub.
    """
    from datasets import config
    from huggingface_hub import constants as hub

    place = Path(os.path.realpath(path))
    roots = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, hub.HF_HUB_CACHE)
    if not any(place.is_relative_to(os.path.realpath(root)) for root in roots):
        raise DataError(f"{name}: holds the path of a picture and not the picture; a dataset must hold its bytes")
    return place


def _faults() -> tuple[type[BaseException], ...]:
    """What loading raises for data that cannot be had: files, network, the Hub's answers, broken parquet."""
    import httpx2
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return (
        OSError,  # files, ConnectionError, OfflineModeIsEnabled, DatasetNotFoundError, LocalEntryNotFoundError
        ValueError,  # unknown split or config, and pyarrow.ArrowInvalid
        TypeError,  # pyarrow.ArrowTypeError and schemas that differ between files
        KeyError,
        NotImplementedError,
        RuntimeError,  # dataset scripts, which are not run
        HfHubHTTPError,
        HFValidationError,
        httpx2.HTTPError,
        DatasetsError,
    )


def _explain(error: BaseException, source: Source, key: str, *, local: bool) -> DataError:
    cause = error.__cause__ or error
    text = " ".join(str(cause).split())[:300]
    what = f"{key}: {shown(str(source.dataset))} cannot be loaded ({type(cause).__name__}: {text})"
    lower = text.lower()
    if local:
        return DataError(what, "check the file; copying it again often helps")
    if "split" in lower or "config" in lower:
        return DataError(what, f"set {key.removesuffix('dataset')}split to one that is there")
    if "gated" in lower or "401" in lower or "403" in lower:
        return DataError(what, "accept its terms on huggingface.co and log in with `hf auth login`")
    if any(word in lower for word in ("404", "doesn't exist", "not found", "revision")):
        return DataError(what, "check the id on huggingface.co; a private dataset needs `hf auth login`")
    return DataError(what, "check the network, or download it once where there is one; a local .parquet file works too")


@contextmanager
def _no_bars(datasets: Any) -> Iterator[None]:
    """No progress bars of the library while it loads; ours are the watcher's."""
    shown_before = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown_before:
            datasets.enable_progress_bars()
