"""Scores of folders of pictures, without ComfyUI. From the pack's folder:

    python -m scoring score --protocol dreambench++ --images OUT --references SRC --texts TXT --weights FOLDER
    python -m scoring verify FILE [FILE ...]
    python -m scoring merge FOLDER DINO OUT

`score` reads pictures one after the other, so that a folder of any size fits. Texts are .txt files of the pictures'
names. With a protocol of matched pairs the folders hold files of equal relative paths. `verify` says which model a
weight file is and compares it with published numbers. `merge` makes the one file that this pack reads of what
DreamSim's authors publish.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .metrics import order
from .packages import MissingPackage
from .pictures import FilePictures, picture_files
from .protocols import PROTOCOLS, get_protocol
from .scorer import Labels, load_scorer, score
from .verify import load_file, verify


def stems(folder: Path, files: list[Path]) -> list[str]:
    """The relative paths of these files without suffix."""
    return [file.relative_to(folder).with_suffix("").as_posix() for file in files]


def score_folders(options: argparse.Namespace) -> None:
    """Score a folder and print a line a metric; the records go to --out."""
    scorer = load_scorer(options.protocol, options.weights, leave_out=options.leave_out)
    images = picture_files(options.images)
    names = stems(options.images, images)
    references = picture_files(options.references) if options.references else []
    matched = any(measure.comparison.by_place for measure in scorer.protocol.of("references"))
    if references and matched and stems(options.references, references) != names:
        raise ValueError(
            f"{scorer.protocol.name} compares pictures with equal file names, but the names in {options.images} and "
            f"{options.references} differ."
        )
    texts = []
    for name in names if options.texts else ():
        path = options.texts / f"{name}.txt"
        if not path.is_file():
            raise ValueError(f"{path} is missing: every picture needs its text.")
        try:
            texts.append(path.read_bytes().decode("utf-8-sig").strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text in UTF-8 (byte {error.start}): save it again as UTF-8.") from error
    from tqdm import tqdm

    with tqdm(total=len(images) + len(references), unit="picture", disable=None) as bar:  # None: off without a terminal
        result = score(
            scorer,
            FilePictures(images),
            FilePictures(references),
            texts,
            Labels(options.label, options.subject),
            lambda done: bar.update(done - bar.n),
        )
    for row in sorted(result.rows, key=lambda row: order(row.metric)):
        print(f"{row.metric:8} {row.value:9.4f}  {row.protocol}: {row.measurement}")
    for remark in result.remarks:
        print(remark)
    if options.out:
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(result.jsonl())


def merge_dreamsim(options: argparse.Namespace) -> None:
    """Write DreamSim's merged weights. An existing file is not replaced."""
    from safetensors.torch import save_file

    from .backbones.dreamsim import merge

    if options.out.exists():
        raise ValueError(f"{options.out} already exists; remove it first, or choose another name.")
    if options.out.suffix != ".safetensors":
        raise ValueError(f"{options.out} must end in .safetensors.")
    save_file({key: value.contiguous() for key, value in merge(options.folder, options.dino).items()}, options.out)


def main() -> None:
    """Read the command line; exit status 1 with a sentence for bad input and for weights that fail."""
    parser = argparse.ArgumentParser(
        prog="python -m scoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("score", help="score a folder of pictures")
    command.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="dreambooth",
        help=" | ".join(f"{name}: {get_protocol(name).about}".replace("%", "%%") for name in PROTOCOLS),
    )
    command.add_argument("--images", type=Path, required=True)
    command.add_argument("--references", type=Path)
    command.add_argument("--texts", type=Path)
    command.add_argument("--weights", type=Path, nargs="*", default=[], help="folders of weight files")
    command.add_argument("--leave-out", action="store_true", help="leave out metrics whose weights are missing")
    command.add_argument("--label", default="")
    command.add_argument("--subject", default="")
    command.add_argument("--out", type=Path, help="append the records to this .jsonl file")
    command = commands.add_parser("verify", help="compare weight files with published numbers")
    command.add_argument("files", type=Path, nargs="+")
    command = commands.add_parser("merge", help="merge DreamSim's LoRA into its base models")
    command.add_argument("folder", type=Path, help="the unpacked dreamsim_ensemble_checkpoint.zip")
    command.add_argument("dino", type=Path, help="dino_vitbase16_pretrain.pth of facebookresearch/dino")
    command.add_argument("out", type=Path, help="the file to write: models/scorers/dreamsim_ensemble.safetensors")
    options = parser.parse_args()
    try:
        if options.command == "score":
            score_folders(options)
            return
        if options.command == "merge":
            merge_dreamsim(options)
            return
        results = [verify(load_file(path)) for path in options.files]
    except (ValueError, OSError, MissingPackage) as error:
        sys.exit(str(error))
    print("\n".join(result.report() for result in results))
    sys.exit(any(result.passed is False for result in results))


if __name__ == "__main__":
    main()
