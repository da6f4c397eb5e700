"""kerasbig cut-faces."""

from __future__ import annotations

from typing import Any

import click

from kerasbig.cli.quiet import load_tensorflow

# Lines of photographs without a face that are printed; --json has all.
SHOWN = 5


@click.command("cut-faces")
@click.argument("photos")
@click.option("--to", required=True, metavar="FOLDER", help="The folder of faces to make.")
@click.option("--side", type=click.IntRange(min=16), default=112, show_default=True, help="Pixels across a face that is written.")
@click.option("--least-side", type=int, default=20, show_default=True, help="Pixels across the smallest face to look for; more is faster.")
@click.option("--skip-bad", is_flag=True, help="Skip and list files that are no images.")
@click.option("--overwrite", is_flag=True, help="Replace an existing folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cut_faces(photos: str, to: str, side: int, least_side: int, skip_bad: bool, overwrite: bool, as_json: bool) -> None:
    """Cuts the largest face out of each photograph, upright and in the same place, for train face-classifier.

    PHOTOS is a folder with one sub-folder of photographs a person.
    """
    from kerasbig.files import require_new

    require_new(to, overwrite=overwrite)
    load_tensorflow()
    from kerasbig import vision
    from kerasbig.cli.output import note, print_json, print_table

    cut = vision.cut_faces(photos, to, image_shape=(side, side, 3), least_side=least_side, skip_bad=skip_bad, overwrite=overwrite)
    found: dict[str, Any] = {"written": cut.written, "without": cut.without, "several": cut.several, "skipped": cut.skipped, "folder": to}
    if as_json:
        print_json(found)
        return
    rows = [
        ["faces written", f"{cut.written:,}"],
        ["photographs without a face, left out", f"{len(cut.without):,}"],
        ["with several, the largest taken", f"{len(cut.several):,}"],
        ["files that are no images, skipped", f"{len(cut.skipped):,}"],
    ]
    print_table(photos, ["what", "how many"], rows)
    for path in cut.without[:SHOWN]:
        note(f"No face on {path}")
    click.echo(f"Faces: {to}")
