"""The command beside run.py: it reads what jobs have left, and makes model folders.

    python -m rkd report outputs                           every finished job: over seeds and questions, with intervals
    python -m rkd report outputs --html page               the same as a page: curves, responses, rollouts
    python -m rkd compare outputs "Ours" "Ours w/o R"      two rows on the same questions, seed by seed
    python -m rkd artifacts list                           what is stored; show, verify and gc look after it
    python -m rkd pretrain pretrain=mini_1                 make a model of the generated world
    python -m rkd models get smollm2_135m                  make a model folder of the file that a package holds
    python -m rkd tables render tables                     make tables anew from the results of their jobs
    python -m rkd workspace tables/table3.jobs.json --entity NAME      a W&B view of a table's runs, or a report
    python -m rkd export outputs/JOB FOLDER                student, reward model, judge or data for the hub
    python -m rkd alpaca-eval ANNOTATIONS.jsonl --difficulty FILE.csv  win rates of AlpacaEval 2

Exit code 0: done. 1: it failed, and the message says why. 2: the arguments do not fit. 130: interrupted.
"""

# A subcommand imports what it needs when it runs: help and wrong arguments are answered before PyTorch is loaded.

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rkd.errors import UsageError, UserError
from rkd.processes import INTERRUPTED, lasting_streams

CONF = Path(__file__).resolve().parents[1] / "conf"
MANIFEST_HELP = "tables/NAME.jobs.json, as `python run.py -m sweeps=NAME` writes it"


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser`.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.prog}: {message}. `{self.prog} --help` says what it takes.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        if given[:1] == ["pretrain"] and not _asks_for_help(given[1:]):  # Hydra parses all that follows
            return _pretrain(given[1:])
        arguments = command_parser().parse_args(given)
        return int(arguments.run(arguments))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except (UserError, ValueError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED


def command_parser() -> Parser:
    """The arguments of all commands but pretrain, whose are Hydra's."""
    parser = Parser(
        prog="python -m rkd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    report = commands.add_parser("report", help="tables from the results of jobs")
    report.description = (
        "Print a table over seeds of all jobs, and write it to a file with the table of each job; "
        "or write a page that shows them in a browser."
    )
    report.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a job's folder, or one above jobs")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--output", type=Path, default=Path("report.md"), help="Markdown file (default: report.md)")
    form.add_argument(
        "--html", type=Path, metavar="FOLDER", help="where index.html is written, instead (requirements-html.txt)"
    )
    report.set_defaults(run=_report)

    compare = commands.add_parser("compare", help="two rows on the same questions")
    compare.description = "Compare two rows, seed by seed, on the questions that both answered."
    compare.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a job's folder, or one above jobs")
    compare.add_argument("row_a", metavar="ROW_A", help='the label of a row, as in "Ours"')
    compare.add_argument("row_b", metavar="ROW_B", help='the label of another row, as in "Ours w/o R"')
    compare.add_argument("--output", type=Path, help="Markdown file that the comparison is written to, too")
    compare.set_defaults(run=_compare)

    _add_artifacts(commands.add_parser("artifacts", help="look after the stored stages: list, show, verify, gc"))
    pretrain = commands.add_parser("pretrain", help="make a model of the generated world")
    pretrain.usage = "python -m rkd pretrain pretrain=MODEL [KEY=VALUE ...] [--cfg job]"
    pretrain.description = (
        f"Make a model anew, from random weights. MODEL is one of {', '.join(_models())}. "
        "What stands after `pretrain` is read by Hydra: `pretrain=MODEL --cfg job` shows all values."
    )
    _add_models(commands.add_parser("models", help="models that packages hold: list them, make their folders"))
    _add_tables(commands.add_parser("tables", help="list tables, or make them anew from the results of their jobs"))

    workspace = commands.add_parser("workspace", help="a W&B view of a table's runs, or a report")
    workspace.description = (
        "Save a W&B workspace that shows the runs of one table by row, or a report with the table, its claims and "
        "panels of the runs, and print its address. "
        "Needs `pip install -r requirements-workspaces.txt`."
    )
    workspace.add_argument("manifest", type=Path, metavar="MANIFEST", help=MANIFEST_HELP)
    workspace.add_argument("--entity", required=True, help="the user or team whose runs they are")
    workspace.add_argument("--project", default="rkd", help="the config's tracking.project (default: rkd)")
    workspace.add_argument("--report", action="store_true", help="save a report instead of a workspace")
    workspace.add_argument("--dry-run", action="store_true", help="print what would be saved, without network")
    workspace.set_defaults(run=_workspace)

    _add_export(commands.add_parser("export", help="student, reward model, judge or data of a job, for the hub"))

    alpaca_eval = commands.add_parser("alpaca-eval", help="win rates of AlpacaEval 2 from recorded preferences")
    alpaca_eval.description = "Print the win rate and the length-controlled win rate of each file of annotations."
    alpaca_eval.add_argument(
        "annotations", nargs="+", type=Path, metavar="ANNOTATIONS", help="JSON or JSONL files, one for each model"
    )
    alpaca_eval.add_argument(
        "--difficulty", type=Path, required=True, help="CSV file with the columns index and instruction_difficulty"
    )
    alpaca_eval.add_argument(
        "--weights", type=Path, help="CSV file of published coefficients; without it they are fitted"
    )
    alpaca_eval.set_defaults(run=_alpaca_eval)
    return parser


def _add_artifacts(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Look after the store of finished stages. A job notes in artifacts.json what it uses before it uses it, "
        "so a job that runs, failed or was interrupted counts as a user."
    )
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--root", type=Path, default=Path("artifacts"), help="the config's artifacts.root (default: artifacts)"
    )
    jobs = argparse.ArgumentParser(add_help=False)
    jobs.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="the config's output_root (default: outputs)"
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[store, jobs], help="size, seconds and jobs of each stored stage")
    listing.set_defaults(run=_list_artifacts)
    show = actions.add_parser("show", parents=[store], help="what one stored stage was made from, and with")
    show.add_argument("artifact", metavar="STAGE/DIGEST", help="as `list` prints it")
    show.set_defaults(run=_show_artifact)
    verify = actions.add_parser("verify", parents=[store], help="compare every checksum")
    verify.add_argument("--repair", action="store_true", help="remove what is damaged; the next run makes it again")
    verify.set_defaults(run=_verify_artifacts)
    gc = actions.add_parser("gc", parents=[store, jobs], help="remove what no job uses")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    gc.set_defaults(run=_collect_garbage)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.description = "Language models that installed packages hold as a file. docs/small.md names the packages."
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the models, and whether their folders are there")
    listing.set_defaults(run=_list_models)
    get = actions.add_parser("get", help="make the folder of a model")
    get.add_argument("name", metavar="NAME", help="as `list` prints it")
    get.add_argument("--folder", type=Path, help="where it is made (default: checkpoints/NAME of the repository)")
    get.set_defaults(run=_get_model)


def _add_tables(parser: argparse.ArgumentParser) -> None:
    parser.description = "Tables of sweeps: NAME.jobs.json holds a table's jobs, NAME.results.jsonl their results."
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the tables of a folder, and how many of their jobs have finished")
    listing.add_argument("folder", nargs="?", type=Path, default=Path("tables"), metavar="FOLDER")
    listing.set_defaults(run=_list_tables)
    render = actions.add_parser("render", help="write NAME.md, .csv, .tex, .json and .png anew, without any job")
    render.add_argument("folder", type=Path, metavar="FOLDER", help="where NAME.jobs.json lies")
    render.add_argument("names", nargs="*", metavar="NAME", help="as in `table3`; without names all tables are made")
    render.set_defaults(run=_render_tables)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write what a finished job has made as a folder for the Hugging Face hub, with a card: a model of plain "
        "transformers, or labels and pairs as a dataset. Nothing is trained or sampled."
    )
    parser.add_argument("job", type=Path, metavar="JOB", help="the job's folder, as outputs/JOB")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where it is written: empty, or not there yet")
    parser.add_argument(
        "--part", choices=("student", "reward_model", "judge", "data"), default="student", help="(default: student)"
    )
    parser.add_argument("--root", type=Path, help="the store (default: the artifacts.root of the job's config)")
    parser.add_argument("--licence", metavar="ID", help="of data that have no known licence, if you have checked it")
    parser.add_argument("--push", metavar="NAME", help="upload it to USER/NAME of the hub; the token is HF_TOKEN")
    parser.set_defaults(run=_export)


def _models() -> list[str]:
    """The models that `pretrain` makes."""
    return sorted(path.stem for path in (CONF / "pretrain").glob("*.yaml"))


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether `pretrain` was asked for help without a model, for which Hydra has no config."""
    return not {"-h", "--help"}.isdisjoint(arguments) and not any(one.startswith("pretrain=") for one in arguments)


def _report(given: argparse.Namespace) -> int:
    from rkd.reporting.report import read_results, write_report

    if given.html is not None:
        from rkd.reporting.page.page import write_page

        print(f"Written to {write_page(given.folders, given.html)}; open it in a browser.")
        return 0
    print(write_report(read_results(given.folders), given.output))
    print(f"\nWritten to {given.output}")
    return 0


def _compare(given: argparse.Namespace) -> int:
    from rkd.reporting.report import read_results, row_comparison

    try:
        table = row_comparison(read_results(given.folders), given.row_a, given.row_b)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(table)
    if given.output is not None:
        given.output.write_text(table + "\n", encoding="utf-8")
        print(f"\nWritten to {given.output}")
    return 0


def _list_artifacts(given: argparse.Namespace) -> int:
    from rkd.jobs.artifacts_command import jobs_of, list_artifacts, open_store

    list_artifacts(open_store(given.root), jobs_of(given.outputs))
    return 0


def _show_artifact(given: argparse.Namespace) -> int:
    from rkd.jobs.artifacts_command import open_store, show

    show(open_store(given.root), given.artifact)
    return 0


def _verify_artifacts(given: argparse.Namespace) -> int:
    from rkd.jobs.artifacts_command import open_store, verify

    return int(verify(open_store(given.root), repair=given.repair) > 0)


def _collect_garbage(given: argparse.Namespace) -> int:
    from rkd.jobs.artifacts_command import collect_garbage, open_store

    collect_garbage(open_store(given.root), given.outputs, dry_run=given.dry_run)
    return 0


def _list_models(given: argparse.Namespace) -> int:  # noqa: ARG001
    from rkd.models.packaged import PACKAGED, folder_of

    for name, model in PACKAGED.items():
        folder = folder_of(name)
        place = folder if folder.is_dir() else f"not made yet: `python -m rkd models get {name}`"
        print(f"{name:20} {model.parameters:>11,} weights   {model.describe()}\n{'':20} {place}")
    return 0


def _get_model(given: argparse.Namespace) -> int:
    from rkd.models.packaged import get_model

    get_model(given.name, given.folder)
    return 0


def _list_tables(given: argparse.Namespace) -> int:
    from rkd.reporting.table_files import manifests_of, name_of, progress

    for manifest in manifests_of(given.folder):
        title, finished, jobs = progress(manifest)
        print(f"{name_of(manifest):20} {finished:4} of {jobs:4} jobs   {title}")
    return 0


def _render_tables(given: argparse.Namespace) -> int:
    from rkd.reporting.table_files import add_notes, manifests_of, markdown_file, render

    for manifest in manifests_of(given.folder, given.names):
        add_notes(manifest)
        evaluated = render(manifest)
        print(f"{markdown_file(manifest)}: {evaluated.finished} of {evaluated.jobs} jobs finished")
    return 0


def _workspace(given: argparse.Namespace) -> int:
    from rkd.reporting.wandb_report import report_of
    from rkd.reporting.wandb_workspace import save_view, workspace_of

    view_of = report_of if given.report else workspace_of
    print(save_view(view_of, given.manifest, entity=given.entity, project=given.project, dry_run=given.dry_run))
    return 0


def _export(given: argparse.Namespace) -> int:
    from rkd.jobs.export import export, push
    from rkd.jobs.finished_job import finished_job

    export(finished_job(given.job, given.root), given.folder, given.part, licence=given.licence)
    print(f"Written to {given.folder}")
    if given.push is not None:
        print(f"Uploaded to {push(given.folder, given.push, is_dataset=given.part == 'data')}")
    return 0


def _alpaca_eval(given: argparse.Namespace) -> int:
    from rkd.evaluation.alpaca_eval import win_rate_table

    print(win_rate_table(given.annotations, given.difficulty, given.weights))
    print("±: standard error over the instructions.")
    return 0


def _pretrain(arguments: Sequence[str]) -> int:
    """Hand the arguments to Hydra, which composes conf/pretrain.yaml."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach this function, as in run.py
    import hydra
    from omegaconf import DictConfig

    from rkd.config import REFUSALS, refusal

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="pretrain")
    def pretrain(config: DictConfig) -> None:
        from rkd.mini.pretraining.pretrain import make_model

        make_model(config)

    sys.argv[1:] = arguments  # Hydra reads its arguments from here
    try:
        pretrain()
    except REFUSALS as error:
        raise UsageError(refusal(error, "python -m rkd pretrain pretrain=mini_1")) from error
    return 0


if __name__ == "__main__":
    lasting_streams()
    sys.exit(main())
