"""The command ``python -m shards.pack``: any source of audio -> a dataset folder.

Owns its options; packing/job.py does the work and packing/sources/ lists the clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from shards.format.classes import Classes, read_classes
from shards.format.schema import CODECS
from shards.format.weak_labels import LabelReader, LabelsAre, add_labels_are
from shards.packing.job import PackSettings, Share, merge, pack
from shards.packing.rejects import Limits
from shards.packing.sources import (
    class_folders,
    desed,
    folder,
    hdf5,
    hdf5_rows,
    parquet,
    webdataset,
)
from shards.packing.sources.listing import Listing, add_to_listing
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name
from shards.system.workers import default_workers

_EXAMPLES = """examples:
  python -m shards.pack --folders sounds --out data/sounds
  python -m shards.pack --audio wavs --segments balanced_train_segments.csv \\
      --class-labels class_labels_indices.csv --out data/balanced --max-missing 0.2
  python -m shards.pack --audio more_wavs --unlabelled \\
      --class-labels class_labels_indices.csv --out data/more
  python -m shards.pack --tsv labels/balanced.csv \\
      --class-labels class_labels_indices.csv --out data/balanced
  python -m shards.pack --panns waveforms/balanced_train.h5 \\
      --class-labels class_labels_indices.csv --out data/balanced
  python -m shards.pack --webdataset audioset_tars --label-field tag \\
      --class-labels class_labels_indices.csv --out data/full
  python -m shards.pack --parquet audioset_parquet --label-column labels \\
      --class-labels class_labels_indices.csv --out data/balanced
"""


def _parser() -> argparse.ArgumentParser:
    name = typed_name("shards.pack")
    parser = Parser(
        prog=name,
        description="Pack audio and its labels into shards. Give one source.",
        epilog=_EXAMPLES.replace("python -m shards.pack", name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sources(parser)
    add, defaults = parser.add_argument, PackSettings()
    add(
        "--class-labels",
        help="class_labels_indices.csv; --folders needs none, and takes the names of "
        "the folders",
    )
    add("--out", required=True, help="dataset folder to make")
    add("--codec", choices=sorted(CODECS), default=defaults.codec)
    add("--sample-rate", type=int, default=defaults.sample_rate, help="Hz")
    add("--clips-per-shard", type=int, default=defaults.clips_per_shard)
    add("--seed", type=int, default=defaults.seed, help="of the order of clips")
    add("--workers", type=int, default=default_workers(), help="processes")
    for what in ("missing", "rejected"):
        add(
            f"--max-{what}",
            type=float,
            default=0.0,
            metavar="F",
            help=f"fraction of clips that may be {what} (default 0)",
        )
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument(
        "--part",
        metavar="i/n",
        help="pack only share i (from 0) of n, as one task of an array",
    )
    whole.add_argument(
        "--merge",
        action="store_true",
        help="check the shards that all parts have packed, and write the index",
    )
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    add = source.add_argument
    add("--audio", metavar="DIR", help="folder with audio files, searched deeply")
    add(
        "--folders",
        metavar="DIR",
        help="folder with a folder of audio files for each class, named as the class",
    )
    add("--tsv", help="list of clips in HDF5 files, as of the published PSL code")
    add(
        "--panns",
        nargs="+",
        metavar="FILE",
        help="HDF5 files of PANNs, PaSST or EfficientAT: audio_name, waveform or mp3, "
        "target",
    )
    add(
        "--webdataset",
        nargs="+",
        metavar="PLACE",
        help="WebDataset tars, also as x-{000..123}.tar or URLs, or folders",
    )
    add("--parquet", nargs="+", metavar="PLACE", help="Parquet files, or folders")
    add = parser.add_argument_group("about the source").add_argument
    add("--segments", help="with --audio: segments CSV in AudioSet's form")
    add(
        "--files-are",
        choices=folder.FILES_ARE,
        help="with --segments: what files named by their id alone hold (default: what "
        "their length tells, if it does)",
    )
    add(
        "--unlabelled",
        action="store_true",
        help="with --audio: each file is a clip without labels, for a teacher to label",
    )
    add(
        "--desed",
        nargs="+",
        metavar="TSV",
        help="with --audio: lists in DESED's form, weak (filename, event_labels) or "
        "strong (filename, onset, offset, event_label)",
    )
    add("--hdf5", help="with --tsv: the HDF5 file, instead of the column hdf5path")
    add(
        "--source-rate",
        type=int,
        help="with --tsv (default 16000) and --panns (default: what the file says): Hz",
    )
    add(
        "--label-field",
        default="labels",
        help="with --webdataset: field of the JSON, a.b for one inside another; or cls "
        "or txt, for members with that suffix",
    )
    add("--downloads", metavar="DIR", help="with --webdataset: keeps tars of URLs")
    add("--audio-column", default="audio", help="with --parquet")
    add("--label-column", default="labels", help="with --parquet")
    add("--id-column", help="with --parquet; else the path in the audio column")
    add_labels_are(add)
    add(
        "--ontology",
        metavar="NAME",
        help="add each label's ancestors: audioset, or a file like its ontology.json "
        "(psl.train and psl.evaluate can also do this later)",
    )


def _list_clips(args: argparse.Namespace, reader: LabelReader) -> Listing:
    """The clips of the source that the command line names."""
    listing = _list_source(args, reader)
    if reader.labels_are is not None:
        listing.provenance["labels_are"] = reader.labels_are
    if args.ontology is not None:
        listing = add_to_listing(listing, reader.classes, args.ontology)
    return listing


def _list_source(args: argparse.Namespace, reader: LabelReader) -> Listing:
    if args.audio:
        given = [bool(args.segments), bool(args.desed), args.unlabelled]
        if sum(given) != 1:
            raise ValueError(
                "--audio needs one of --segments, the CSV of clips and labels, "
                "--desed, lists of clips in DESED's form, or --unlabelled, for each "
                "file to be a clip without labels"
            )
        if args.desed:
            return desed.list_clips(args.audio, args.desed, reader)
        if args.unlabelled:
            return folder.list_unlabelled(args.audio, reader)
        return folder.list_clips(
            args.audio, args.segments, reader, files_are=args.files_are
        )
    if args.folders:
        return class_folders.list_clips(args.folders, reader)
    if args.tsv:
        return hdf5.list_clips(args.tsv, reader, file=args.hdf5, rate=args.source_rate)
    if args.panns:
        return hdf5_rows.list_clips(args.panns, reader.classes, rate=args.source_rate)
    if args.webdataset:
        return webdataset.list_clips(
            args.webdataset,
            reader,
            label_field=args.label_field,
            downloads=args.downloads,
        )
    return parquet.list_clips(
        args.parquet,
        reader,
        audio_column=args.audio_column,
        label_column=args.label_column,
        id_column=args.id_column,
    )


def _read_classes(args: argparse.Namespace) -> Classes:
    if args.class_labels:
        return read_classes(args.class_labels)
    return class_folders.classes_of(class_folders.read_class_folders(args.folders))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.pack``."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.class_labels and not args.folders:
        parser.error("the following arguments are required: --class-labels")
    settings = PackSettings(
        args.codec, args.sample_rate, args.clips_per_shard, args.seed
    )
    limits = Limits(args.max_missing, args.max_rejected)
    part = Share.parse(args.part) if args.part else None
    classes = _read_classes(args)
    labels_are: LabelsAre | None = args.labels_are
    if labels_are is None and not args.class_labels:
        labels_are = "mids"  # folders named by numbers are not meant as indices
    listing = _list_clips(args, LabelReader(classes, labels_are))
    if args.merge:
        summary = merge(
            listing, classes=classes, out=args.out, settings=settings, limits=limits
        )
    else:
        summary = pack(
            listing,
            classes=classes,
            out=args.out,
            settings=settings,
            limits=limits,
            workers=args.workers,
            part=part,
        )
    print(summary)


if __name__ == "__main__":
    run_main(main)
