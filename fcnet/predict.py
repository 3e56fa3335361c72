"""``python -m fcnet.predict``: what a finished network says of image files."""

from __future__ import annotations

import json
from pathlib import Path

from fcnet import cli
from fcnet.network import load


def main(arguments: list[str]) -> int:
    """Parses the flags, predicts, prints; returns the exit code."""
    parser = cli.Parser("predict", "Say which class each image is of, and how probable that is.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    flags = parser.parse_args(arguments)
    predictions = load(flags.run).predict_images(flags.images)
    pairs = list(zip(flags.images, predictions, strict=True))
    if flags.json:
        rows = [{"path": str(path), "class": p.class_name, "probability": p.probability} for path, p in pairs]
        cli.say(json.dumps(rows, indent=2))
    else:
        for path, p in pairs:
            cli.say(f"{path}: {p.class_name} ({p.probability:.1%})")
    return 0


if __name__ == "__main__":
    cli.command(main)
