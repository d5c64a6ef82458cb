"""The command line: parse, call a pipeline, print.

Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 failed;
2 wrong usage or bad input, with one clear line; 3 done, but some recordings were rejected and
``--strict`` was given; 4 done, and the night raised alarms.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

import ray_asd
from ray_asd import console, printed
from ray_asd.errors import BadInput, RunFailed

_HELP = """Finds machines that sound wrong, in archives of recordings.

Learns from normal recordings what each machine sounds like, then tells of every recording how far
it is from that. `ray-asd VERB --help` explains a verb.

\b
A first look:
  ray-asd demo
\b
Recordings of your own:
  ray-asd index    recordings       --out manifest.parquet
  ray-asd train    manifest.parquet --out upstream
  ray-asd fit      manifest.parquet --upstream upstream --out bundle
  ray-asd score    recordings       --bundle bundle --out scores
  ray-asd report   scores           --bundle bundle --out report.html
\b
Exit codes:
  0  done
  1  failed
  2  wrong usage or bad input; one line says what, and which file
  3  done, but recordings were rejected and --strict was given
  4  done, and the night raised alarms
"""

app = typer.Typer(
    name="ray-asd",
    help=_HELP,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Ray cluster to join: auto, or its address. Default: a local Ray."
    ),
]
RecipeOption = Annotated[
    str, typer.Option(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting: upstream.epochs=20. May be repeated.",
    ),
]
Layout = Annotated[str, typer.Option(metavar="LAYOUT", help="How a folder's names are read.")]
EnsembleOption = Annotated[str | None, typer.Option(metavar="NAME", help="Which ensemble.")]
EmbeddingWorkers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Embedding actors. Default: one a core.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 if anything was rejected.")]


@app.command()
def demo(
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder for everything.")] = "demo",
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small fleet and run the whole system on it, in minutes.

    \b
    Example:
      ray-asd demo --out demo
    """
    result = ray_asd.demo(out, address=address)
    if as_json:
        return printed.as_json(result)
    printed.demo(result)


@app.command()
def index(
    root: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or bucket of recordings.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="The manifest to write (Parquet).")],
    layout: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT", help="dcase, or a template: {site}/{machine_type}/{section}/{file}"
        ),
    ] = "dcase",
    as_json: JsonOption = False,
) -> None:
    """List a folder of recordings and write their manifest.

    \b
    Examples:
      ray-asd index recordings --out manifest.parquet
      ray-asd index s3://plant/recordings --out manifest.parquet \\
          --layout '{site}/{machine_type}/{section}/{file}'
    """
    result = ray_asd.index(root, out, layout=layout)
    if as_json:
        return printed.as_json(result)
    printed.machines(result)
    printed.stdout().print(f"{result['recordings']} recordings in {out}", soft_wrap=True)


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The data set: dcase2023.")],
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder of the recordings and their manifest.")
    ],
    machines: Annotated[
        list[str] | None,
        typer.Option("--machine", metavar="NAME", help="Only this machine type. May be repeated."),
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=16, metavar="N", help="Files that are fetched at once.")
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """Fetch, check, unpack and index a published data set.

    The same command carries on after an interruption.

    \b
    Example:
      ray-asd download dcase2023 --out dcase2023 --machine fan
    """
    result = ray_asd.download(dataset, out, machines=machines, parallel=parallel)
    if as_json:
        return printed.as_json(result)
    printed.machines(result)
    printed.stdout().print(
        f"{result['fetched']} zips of {result['bytes'] / 1e9:.2f} GB fetched in "
        f"{result['seconds']:.0f} s; {result['recordings']} recordings in {result['root']}, "
        f"manifest in {result['manifest']}",
        soft_wrap=True,
    )


@app.command()
def train(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="The manifest.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the upstream run.")],
    recipe: RecipeOption = "first_shot",
    settings: Setting = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Ray Train workers. Default: one a GPU, or a core."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder of features tables. Default: OUT/features."),
    ] = None,
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Train the backbones on the normal recordings.

    \b
    Examples:
      ray-asd train manifest.parquet --out upstream --set upstream.epochs=20
      ray-asd train manifest.parquet --out upstream --recipe mine.yaml
    """
    result = ray_asd.train(
        manifest,
        out,
        recipe=recipe,
        settings=settings,
        workers=workers,
        features_uri=features,
        address=address,
    )
    if as_json:
        return printed.as_json(result)
    printed.training(result, out)


@app.command()
def fit(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="The manifest.")],
    upstream: Annotated[str, typer.Option(metavar="FOLDER", help="The upstream run.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the bundle.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="Recipe of the detectors. Default: the upstream run's."
        ),
    ] = None,
    settings: Setting = None,
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the detectors and write a bundle.

    \b
    Example:
      ray-asd fit manifest.parquet --upstream upstream --out bundle
    """
    result = ray_asd.fit(manifest, upstream, out, recipe=recipe, settings=settings, address=address)
    if as_json:
        return printed.as_json(result)
    printed.stdout().print(
        f"bundle {result['bundle_id']} of {len(result['sections'])} sections in {out}, "
        f"{result['seconds']:.0f} s",
        soft_wrap=True,
    )


@app.command()
def enroll(
    manifest: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="Manifest of the new machine's recordings.")
    ],
    bundle: Annotated[str, typer.Option(metavar="FOLDER", help="The bundle that is added to.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the new bundle.")],
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Add a new machine from its normal recordings alone.

    Nothing is retrained, and the other machines' scores stay as they are.

    \b
    Example:
      ray-asd enroll new.parquet --bundle bundle --out bundle2
    """
    result = ray_asd.enroll(manifest, bundle, out, address=address)
    if as_json:
        return printed.as_json(result)
    for name, trust in result["enrolled"].items():
        printed.stdout().print(
            f"{name}: {trust['clips']} normal clips, alike to {trust['own_similarity']:.2f}; "
            f"closest known: {trust['nearest']}, {trust['similarity']:.2f}",
            soft_wrap=True,
        )
    printed.stdout().print(
        f"bundle {result['bundle_id']} of {result['sections']} sections in {out}, "
        f"{result['seconds']:.0f} s",
        soft_wrap=True,
    )


@app.command()
def tune(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="The manifest.")],
    upstream: Annotated[
        list[str], typer.Option(metavar="FOLDER", help="An upstream run. May be repeated.")
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The recipe to write (YAML).")],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="What the sweep leaves as it is. Default: the run's recipe."
        ),
    ] = None,
    settings: Setting = None,
    space: Annotated[
        str, typer.Option(metavar="SPACE", help="What is tried: report, large, or a YAML file.")
    ] = "report",
    search: Annotated[str, typer.Option(metavar="NAME", help="grid, or optuna.")] = "grid",
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trials of optuna.")
    ] = None,
    label_free: Annotated[
        bool, typer.Option("--label-free", help="Select by normal recordings alone.")
    ] = False,
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Try detectors and ensembles, and write the best as a recipe.

    \b
    Example:
      ray-asd tune manifest.parquet --upstream upstream --out tuned.yaml
    """
    result = ray_asd.tune(
        manifest,
        upstream,
        out,
        recipe=recipe,
        settings=settings,
        space=space,
        search=search,
        trials=trials,
        label_free=label_free,
        address=address,
    )
    if as_json:
        return printed.as_json(result)
    printed.choices(result)


@app.command()
def score(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A manifest, or a folder of recordings.")
    ],
    bundle: Annotated[str, typer.Option(metavar="FOLDER", help="The bundle.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the scores table.")],
    layout: Layout = "dcase",
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only recordings of this split: train or test."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only recordings of this date or time, or later."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many recordings.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Also what is scored already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    workers: EmbeddingWorkers = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Recordings in a block. Default: by their number."),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(min=1, metavar="S", help="Seconds that one clip may take. Default: 300."),
    ] = None,
    strict: Strict = False,
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Score recordings; what is scored already is skipped.

    \b
    Examples:
      ray-asd score recordings --bundle bundle --out scores
      ray-asd score recordings --bundle bundle --out scores --dry-run
      ray-asd score s3://plant/rec --bundle bundle --out s3://plant/scores
    """
    result = ray_asd.score(
        source,
        bundle,
        out,
        layout=layout,
        split=split,
        since=since,
        limit=limit,
        rescore=rescore,
        dry_run=dry_run,
        workers=workers,
        batch=batch,
        patience_s=patience,
        address=address,
    )
    if as_json:
        printed.as_json(result)
    elif dry_run:
        printed.dry_run(result)
    else:
        reasons = ", ".join(f"{n} {reason}" for reason, n in result["reasons"].items())
        printed.stdout().print(
            f"{result['scored']} clips scored, {result['rejected']} rejected"
            f"{f' ({reasons})' if reasons else ''}, {result['skipped']} skipped as done; "
            f"{result['audio_hours']:.2f} audio hours in {result['seconds']:.0f} s; in {out}",
            soft_wrap=True,
        )
    if strict and result.get("rejected"):
        raise typer.Exit(3)


@app.command()
def evaluate(
    scores: Annotated[
        str, typer.Argument(metavar="SCORES", help="A scores table, or a folder of challenge CSVs.")
    ],
    ground_truth: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="The official evaluator's ground truth, for CSVs."),
    ] = None,
    ensemble: EnsembleOption = None,
    year: Annotated[
        int, typer.Option(metavar="YEAR", help="Whose challenge's definition holds.")
    ] = 2023,
    members: Annotated[
        bool, typer.Option("--members", help="Also each member's own figures.")
    ] = False,
    standardize: Annotated[
        Literal["reference", "batch"],
        typer.Option(help="By reference clips; or, to compare with, by the batch of clips."),
    ] = "reference",
    strict: Annotated[
        bool, typer.Option("--strict", help="A section that cannot be evaluated is an error.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the official figures: AUC by domain, pAUC, their mean.

    \b
    Examples:
      ray-asd evaluate scores
      ray-asd evaluate scores --members
      ray-asd evaluate teams/our_entry --ground-truth ground_truth_data
    """
    result = ray_asd.evaluate(
        scores,
        ground_truth=ground_truth,
        ensemble=ensemble,
        year=year,
        members=members,
        standardize=standardize,
        strict=strict,
    )
    if as_json:
        return printed.as_json(result)
    printed.evaluation(result)


@app.command()
def submit(
    scores: Annotated[str, typer.Argument(metavar="SCORES", help="A scores table.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the CSVs.")],
    ensemble: EnsembleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the challenge's score and decision files.

    \b
    Example:
      ray-asd submit scores --out submission
    """
    result = ray_asd.submit(scores, out, ensemble=ensemble)
    if as_json:
        return printed.as_json(result)
    printed.stdout().print(
        f"{len(result['files'])} files of {result['clips']} clips in {out}", soft_wrap=True
    )


@app.command()
def report(
    scores: Annotated[str, typer.Argument(metavar="SCORES", help="A scores table.")],
    bundle: Annotated[
        str, typer.Option(metavar="FOLDER", help="The bundle that it was scored with.")
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The HTML file to write.")],
    ensemble: EnsembleOption = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Clips to listen to.")] = 25,
    nights: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the last so many nights. Default: all."),
    ] = None,
    largest_mb: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="MB", help="Sound, then pictures are left out of a larger file."
        ),
    ] = 20.0,
    embedding_maps: Annotated[
        bool,
        typer.Option(
            "--maps/--no-maps", help="Maps of labelled clips' embeddings, heard again for it."
        ),
    ] = True,
    address: Address = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page of which machines need attention, and why.

    \b
    Examples:
      ray-asd report scores --bundle bundle --out report.html
      ray-asd report scores --bundle bundle --out report.html --nights 7
    """
    result = ray_asd.report(
        scores,
        bundle,
        out,
        ensemble=ensemble,
        top=top,
        nights=nights,
        largest_mb=largest_mb,
        embedding_maps=embedding_maps,
        address=address,
    )
    if as_json:
        return printed.as_json(result)
    printed.attention(result)


# Somebody should listen.
_ALARMS = 4


@app.command()
def nightly(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A manifest, or a folder of recordings.")
    ],
    bundle: Annotated[str, typer.Option(metavar="FOLDER", help="The bundle.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the scores table.")],
    layout: Layout = "dcase",
    ensemble: EnsembleOption = None,
    alarms_per_night: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="At most so many alarms, the worst.")
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="RATE", help="Alarms above all but this share of normals only."
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="The HTML report to write.")
    ] = None,
    workers: EmbeddingWorkers = None,
    strict: Strict = False,
    address: Address = None,
) -> None:
    """Score what is new, evaluate, raise alarms, and report.

    Prints one JSON summary. Exits with 4 where there are alarms, so that a schedule can page
    somebody.

    \b
    Example:
      ray-asd nightly recordings --bundle bundle --out scores \\
          --alarms-per-night 20 --report report.html
    """
    result = ray_asd.nightly(
        source,
        bundle,
        out,
        layout=layout,
        ensemble=ensemble,
        alarms_per_night=alarms_per_night,
        false_alarm_rate=false_alarm_rate,
        report_to=report,
        workers=workers,
        address=address,
    )
    printed.as_json(result)
    if result["alarms"]["raised"]:
        raise typer.Exit(_ALARMS)
    if strict and result["run"]["rejected"]:
        raise typer.Exit(3)


# What typer makes of Ctrl-C.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; the console script."""
    try:
        app()
    except BadInput as error:
        _fail(str(error), 2)
    except RunFailed as error:
        _fail(str(error), 1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", 1)
    except SystemExit as left:
        if left.code == _INTERRUPTED:
            _fail("stopped; what was finished is kept, the same command carries on", 1)
        raise


def _fail(line: str, code: int) -> None:
    console.console.print(f"ray-asd: {' '.join(line.split())}", markup=False, soft_wrap=True)
    sys.exit(code)
