"""Dead letters: `dead list|show|retry|drop`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands.session import LOOK, JsonOption, Session, command
from streams.errors import Red10Error

if TYPE_CHECKING:
    from streams.dead_letters import DeadLetters, Letter, Retried

Refs = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `dead list` shows them.")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="WORD", help="Those set aside for this reason, such as late.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


class BadChoice(Red10Error):
    """Dead letters are named in no way, or in two."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dead = typer.Typer(help="Dead letters: input and requests that were set aside.", no_args_is_help=True)
    app.add_typer(dead, name="dead", rich_help_panel=LOOK)
    command(dead, "list")(dead_list)
    command(dead, "show")(dead_show)
    command(dead, "retry")(dead_retry)
    command(dead, "drop")(dead_drop)


@contextmanager
def _letters(session: Session) -> Iterator[DeadLetters]:
    from streams.clients import connect, translate
    from streams.dead_letters import DeadLetters
    from streams.errors import ConfigurationError
    from streams.tenant import find_tenant

    settings, _ = session.load()
    with (
        session.roles(settings, "streams") as roles,
        connect(roles.streams_url) as client,
        translate(roles.streams_url),
    ):
        tenant = find_tenant(client, settings.tenant)
        if tenant is None:
            raise ConfigurationError(
                f"there is no tenant {settings.tenant!r}: `red10 tenant list` shows those that exist"
            )
        yield DeadLetters(client, tenant)


def dead_list(
    session: Session,
    *,
    reason: ReasonOption = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many, the newest first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List what was set aside, the newest first: ticks by partition, requests that were given up."""
    from ops.commands.times import show_ms

    with _letters(session) as letters:
        found, total = letters.newest(count, reason), letters.total()
    if json:
        session.json([_value(letter) for letter in found])
    elif found:
        rows = [(letter.ref, show_ms(letter.entry.ms), letter.reason, _detail(letter)) for letter in found]
        session.table(("id", "set aside (UTC)", "reason", "what is wrong"), rows)
        if total > len(found):
            session.say(f"\n{len(found)} of {total}. More: -n {min(total, 10 * count)}, or one kind: --reason WORD")
    elif reason and total:
        session.text(f"None of the {total} dead letters has the reason {reason!r}: `red10 dead list` shows the newest.")
    else:
        session.text("No dead letters: every tick could be used, and every request was answered.")


def dead_show(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="ID", help="As `dead list` shows it.", show_default=False)],
    *,
    json: JsonOption = False,
) -> None:
    """Show one dead letter with all that is known of it, and the entry that it is about."""
    from ops.commands.times import show_ms, show_ns

    with _letters(session) as letters:
        letter = letters.get(ref)
    value = _value(letter)
    if json:
        session.json(value)
        return
    rows: list[tuple[str, object]] = [("id", letter.ref), ("set aside (UTC)", show_ms(letter.entry.ms))]
    for name, found in value.items():
        if name in ("first", "last"):
            rows.append((f"{name} delivery (UTC)", show_ns(found)))
        elif name not in ("id", "where", "ts", "fields"):
            rows.append((name.replace("_", " "), ", ".join(found) if isinstance(found, tuple) else found))
    fields = value["fields"]
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    rows += [(f"field {name}", text) for name, text in pairs]
    session.table(("", ""), rows)


def dead_retry(
    session: Session,
    refs: Refs = None,
    *,
    reason: ReasonOption = None,
    all_: AllOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Publish entries again, byte for byte: ticks to their partition, requests to the request stream.

    Each letter goes when its entry is in. What was wrong with an entry and still is makes it a dead letter again.
    """

    def retry(letters: DeadLetters, letter: Letter) -> dict[str, Any] | None:
        done: Retried | None = letters.retry(letter)
        if done is None:
            return None
        return {"id": done.ref, "stream": done.key, "entry": str(done.entry) if done.entry else None}

    rows = _each(session, refs or [], reason, all_, yes, "published again", retry)
    if json:
        session.json(rows)
        return
    for row in rows if refs else ():
        entry = row["entry"] or "an entry that an earlier try had published"
        session.line(f"{row['id']}: {entry} in {row['stream']}")
    session.text(f"{len(rows)} published again.")


def dead_drop(
    session: Session,
    refs: Refs = None,
    *,
    reason: ReasonOption = None,
    all_: AllOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete dead letters for good."""

    def drop(letters: DeadLetters, letter: Letter) -> dict[str, Any] | None:
        return {"id": letter.ref} if letters.drop(letter) else None

    rows = _each(session, refs or [], reason, all_, yes, "deleted", drop)
    if json:
        session.json(rows)
    else:
        session.text(f"{len(rows)} deleted.")


def _each(
    session: Session,
    refs: list[str],
    reason: str | None,
    all_: bool,
    yes: bool,
    done: str,
    do: Callable[[DeadLetters, Letter], dict[str, Any] | None],
) -> list[dict[str, Any]]:
    """Do something with each letter that was chosen; what came of those that were still there."""
    if bool(refs) == bool(reason or all_) or (reason and all_):
        raise BadChoice("name the dead letters by ids, or by --reason WORD, or --all: `red10 dead list` shows them")
    with _letters(session) as letters:
        if refs:
            chosen: Iterator[Letter] = iter([letters.get(ref) for ref in dict.fromkeys(refs)])
        else:
            counts = Counter(letter.reason for letter in letters.all(reason))
            if not counts:
                return []
            _confirm(session, counts, done, yes)
            chosen = letters.all(reason)
        rows = []
        for letter in chosen:
            try:
                row = do(letters, letter)
            except Red10Error as error:
                if refs:
                    raise
                session.say(f"left alone: {error}")
                continue
            if row is not None:
                rows.append(row)
            elif refs:
                session.say(f"{letter.ref} is gone already: somebody else was faster")
        return rows


def _confirm(session: Session, counts: Counter[str], done: str, yes: bool) -> None:
    total = f"{counts.total()} dead letters ({', '.join(f'{word} {n}' for word, n in counts.most_common())})"
    if yes:
        session.say(f"{total} are {done}")
        return
    if not sys.stdin.isatty():
        raise BadChoice(f"{total} would be {done}: add --yes")
    if not typer.confirm(f"{total} will be {done}. Go on?", err=True):
        raise typer.Exit(1)


def _detail(letter: Letter) -> str:
    return "no dead letter of Red10's" if letter.record is None else letter.record.detail


def _value(letter: Letter) -> dict[str, Any]:
    """A letter as JSON shows it; `ts` in epoch ms is when it was set aside."""
    head = {"id": letter.ref, "where": letter.where, "ts": letter.entry.ms, "reason": letter.reason}
    if letter.record is None:
        from streams.raw import escaped_fields

        return {**head, "fields": escaped_fields([word for pair in letter.fields.items() for word in pair])}
    return {**head, **letter.record.model_dump()}
