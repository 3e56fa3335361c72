"""``python -m fcnet.export``: writes a trained model as a single file for other programs, with a model card."""

from __future__ import annotations

from pathlib import Path

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.experiment.image_classifier import load
from fcnet.experiment.run_folder import Run
from fcnet.export.card_writer import covered_files, write_card
from fcnet.export.formats import check_output_file, export_classifier, read_opset
from fcnet.export.model_card import ModelCard
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import read_metadata


def main(arguments: list[str]) -> int:
    """Parses the flags, writes the model and its card and returns the exit code."""
    parser = Parser(
        "export",
        "Export a trained model as a single file for other programs, with a model card.",
        ["runs/digits digits.pt2", "runs/digits digits.onnx --opset 18 --license mit"],
    )
    parser.add_run()
    parser.add_argument("file", type=Path, metavar="FILE", help="output file: .pt2 (torch.export) or .onnx")
    parser.add_argument("--license", default="", metavar="ID", help="license identifier for the model card, e.g. mit")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX opset, from 18 to 23 (default: torch's)")
    flags = parser.parse(arguments)
    check_output_file(flags.file, flags.opset)
    card = _build_card(flags.run, flags.license)
    covered_files(card, flags.file)  # refuses to replace someone's README.md before the export takes its time
    with cli.say_if_slow("exporting"):
        difference = export_classifier(card.classifier, flags.file, flags.opset)
    opset = read_opset(flags.file) if flags.file.suffix == ".onnx" else None
    card_file = write_card(card, flags.file, opset)
    kind = "float32 features" if card.classifier.takes_features else "uint8 pixels"
    shape = ", ".join(map(str, card.classifier.shape))
    size = f"{flags.file.stat().st_size:,} bytes" + ("" if opset is None else f", ONNX opset {opset}")
    cli.print_status(
        f"{flags.file}: {kind} (B, {shape}) to probabilities (B, {len(card.classifier.classes)}), "
        f"{size}; probabilities within {difference:.1e} of the model's; card: {card_file}"
    )
    return 0


def _build_card(path: Path, license_id: str) -> ModelCard:
    classifier, run = load(path), Run(path)
    if not (run.started and run.finished):
        raise UserError(f"RUN must contain config.toml and summary.json for the model card, got {path}")
    return ModelCard(
        name=path.resolve().name,
        checksum=read_metadata(path / "model")["checksum"],
        classifier=classifier,
        config=run.load_config(),
        summary=run.summary(),
        license=license_id,
    )


if __name__ == "__main__":
    cli.run_command(main)
