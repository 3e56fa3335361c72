"""``python -m fcnet.export``: a finished network as one file for other programs, and its model card."""

from __future__ import annotations

from pathlib import Path

from fcnet import cli
from fcnet.config.toml import load_config
from fcnet.experiment.network import load
from fcnet.experiment.run_folder import Run
from fcnet.export.card_file import files_beside, write_card
from fcnet.export.formats import check_target, write_portable
from fcnet.export.model_card import Card
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_sealed_facts


def main(arguments: list[str]) -> int:
    """Parses the flags, exports, prints; returns the exit code."""
    parser = cli.Parser("export", "Write a finished network as one file that other programs run, and its model card.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("file", type=Path, metavar="FILE", help="ends in .pt2 (torch.export) or .onnx")
    parser.add_argument("--license", default="", metavar="ID", help="what the card names as the network's licence")
    flags = parser.parse_args(arguments)
    check_target(flags.file)
    card = _card(flags.run, flags.license)
    files_beside(card, flags.file)
    difference = write_portable(card.network, flags.file)
    written = write_card(card, flags.file)
    shape = ", ".join(map(str, card.network.shape))
    cli.say(
        f"{flags.file}: uint8 pixels (B, {shape}) to probabilities (B, {len(card.network.classes)}), "
        f"{flags.file.stat().st_size:,} bytes; at most {difference:.1e} from the network's; card: {written}"
    )
    return 0


def _card(path: Path, license_id: str) -> Card:
    """The card of a run's network."""
    network, run = load(path), Run(path)
    if not (run.started and run.finished):
        raise UserError(f"{path} must hold config.toml and summary.json, of which the card is made")
    return Card(
        name=path.resolve().name,
        identity=read_sealed_facts(path / "model")["checksum"],
        network=network,
        config=load_config(run.config),
        summary=run.summary(),
        license=license_id,
    )


if __name__ == "__main__":
    cli.command(main)
