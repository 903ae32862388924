"""What there is to call."""

import typer

from recis_ckpt import cat, diff, gc, inspect, rewrite, store, upstream, verify
from recis_ckpt.errors import Commands

app = typer.Typer(
    name="recis-ckpt",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Looks after snapshots and stores of recis. A snapshot is given as its directory, or as "
        "the directory of snapshots whose newest is meant; both may be fsspec URLs. Exit codes: "
        "0 ok, 1 damage or a difference was found, 2 usage or environment."
    ),
)
app.command()(inspect.inspect)
app.command()(verify.verify)
app.command()(store.save)
app.command()(store.load)
app.command()(rewrite.reshard)
app.command()(rewrite.compact)
app.command()(diff.diff)
app.command()(cat.cat)
app.command("import")(upstream.import_)
app.command()(upstream.export)
app.command()(gc.gc)
