"""``l2p data``: take real images, pack a set, upload it, and say what it holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from latent2pixel.data.stats import DataStats

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")]


def import_images(
    folder: Annotated[Path, typer.Argument(help="Images with metadata.csv or metadata.jsonl: file_name, and text.")],
    out: Annotated[Path, typer.Argument(help="Receives the images; the same call again goes on.")],
    size: Annotated[
        int | None, typer.Option(help="Scale down and crop to this width and height; smaller images are skipped.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column with the caption; default: prompt, caption or text.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where the images come from; default: the folder's name.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of images whose row names none.")] = None,
    follow_links: Annotated[bool, typer.Option(help="Let symbolic links lead out of the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Make a training set of real images with captions."""
    from dataclasses import asdict

    from latent2pixel.data.import_images import import_images as run

    report = run(
        folder,
        out,
        size_px=size,
        caption_key=caption_column,
        source=source,
        licence=licence,
        follow_links=follow_links,
    )
    typer.echo(f"{report.num_images:,} images, {report.num_skipped:,} rows without one", err=True)
    for reason, count in report.skipped.items():
        typer.echo(f"  {count:,}: {reason}", err=True)
    if report.unused_columns:
        typer.echo(f"columns not taken over: {', '.join(report.unused_columns)}", err=True)
    typer.echo(json.dumps({"out": str(out), **asdict(report)}, ensure_ascii=False) if as_json else str(out))


def pack(
    folder: Annotated[Path, typer.Argument(help="Images with their records; or a folder with images/ and prompts/.")],
    out: Annotated[Path, typer.Argument(help="Receives Parquet files and the card; the same call again goes on.")],
    shard_mb: Annotated[float, typer.Option(help="Largest size of a file, MB of images.")] = 500,
    shards: Annotated[int | None, typer.Option(help="Number of files instead.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the set, where the records tell none.")] = None,
    as_json: Json = False,
) -> None:
    """Write the images into Parquet files that `datasets` and `l2p train` read."""
    from dataclasses import asdict

    from latent2pixel.data.pack import pack as run

    report = run(folder, out, shard_mb=shard_mb, num_shards=shards, licence=licence)
    if report.num_skipped:
        typer.echo(f"{report.num_skipped:,} images cannot be read: {out / 'skipped.jsonl'}", err=True)
    typer.echo(json.dumps({"out": str(out), **asdict(report)}) if as_json else str(out))


def push(
    folder: Annotated[Path, typer.Argument(help="Packed set, from `l2p data pack`.")],
    repository: Annotated[str, typer.Argument(help="owner/name of the dataset on the Hub.")],
    public: Annotated[bool, typer.Option(help="Let everybody see it; otherwise it is private.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List what would be uploaded, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a packed set to the Hugging Face Hub, privately unless told otherwise."""
    from dataclasses import asdict

    from huggingface_hub import HfApi

    from latent2pixel.data.push import plan_upload
    from latent2pixel.data.push import push as run

    upload = plan_upload(folder, repository, public=public)
    if dry_run:
        lines = [f"{size:>15,}  {name}" for name, size in upload.files.items()]
        seen_by = "private" if upload.private else "public"
        lines += [f"to {upload.repository}, {seen_by}, licence {upload.licence or 'not recorded'}"]
        typer.echo(json.dumps(asdict(upload)) if as_json else "\n".join(lines))
        return
    address = run(folder, upload, api=HfApi())
    typer.echo(json.dumps({"url": address, **asdict(upload)}) if as_json else address)


def stats(
    folder: Annotated[Path, typer.Argument(help="Prompts, images, or a folder with prompts/ and images/.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the pictures of the page.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a data folder holds: funnel, classes, lengths, duplicates, sizes, licences."""
    from dataclasses import asdict

    from latent2pixel.data.stats import collect_stats

    found = collect_stats(folder)
    if html is not None:
        from latent2pixel.workflow.data_page import write_stats_page

        write_stats_page(folder, found, html, seed=seed)
        typer.echo(f"page: {html}", err=True)
    typer.echo(json.dumps(asdict(found), ensure_ascii=False) if as_json else _summary(found))


def _summary(found: "DataStats") -> str:
    """Return the numbers as text."""
    lines = []
    if found.prompts is not None:
        lines += [f"prompts     {found.prompts.kept:,} kept of {found.prompts.written:,} written"]
        lines += [f"  rejected  {stage.rejected:>8,}  {stage.stage}" for stage in found.prompts.funnel]
    if found.images is not None:
        lines += [f"images      {found.images.images:,} of {found.images.prompts:,} texts"]
        lines += [f"  size      {count:>8,}  {size}" for size, count in list(found.images.sizes.items())[:5]]
        lines += [f"  licence   {count:>8,}  {name}" for name, count in found.images.licences.items()]
        lines += [f"  left out  {count:>8,}  {reason}" for reason, count in found.images.skipped.items()]
    texts = found.texts
    lines += [
        f"texts       {texts.shortest:,} to {texts.longest:,} characters, median {texts.median:.0f}, "
        f"{texts.in_band:.0%} of 200 to 350",
        f"duplicates  {texts.duplicates:,} ({texts.duplicate_rate:.1%})",
    ]
    majors: dict[str, float] = {}
    for row in found.classes:
        majors[row.major_class] = majors.get(row.major_class, 0.0) + row.share
    lines += [f"class       {share:>8.1%}  {name}" for name, share in majors.items()]
    return "\n".join(lines)
