"""Looking: `status`, `keys`, `config`, `tenant list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands.session import LOOK, JsonOption, Session, command

if TYPE_CHECKING:
    from ops.embedded import Roles
    from ops.status import PartitionStatus, Status


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, panel=LOOK)(status)
    command(app, panel=LOOK)(keys)
    command(app, panel=LOOK)(config)
    tenants = typer.Typer(help="Tenants: deployments side by side in one Redis.", no_args_is_help=True)
    app.add_typer(tenants, name="tenant", rich_help_panel=LOOK)
    command(tenants, "list")(tenant_list)


def status(session: Session, *, json: JsonOption = False) -> None:
    """Show servers, workers, partitions and their lag, models."""
    from ops.status import read_status

    settings, _ = session.load()
    with session.roles(settings, "streams", "models") as roles:
        required = settings.required_groups
        found = read_status(settings.tenant, roles.streams_url, roles.models_url, required_groups=required)
        if json:
            session.json(status_json(found, roles))
        else:
            _show_status(session, found, roles)
    if any(server.error for server in found.servers):
        raise typer.Exit(2)


def status_json(found: Status, roles: Roles) -> dict[str, Any]:
    """The status as JSON shows it: ids as text, embedded servers with process and port."""
    value = asdict(found)
    for server in value["servers"]:
        held = roles.embedded.get(server["role"])
        server["embedded"] = held is not None
        server["pid"] = held.pid if held else None
        server["port"] = held.port if held else None
    for partition in value["partitions"] or ():
        for name in ("checkpoint", "oldest", "last"):
            if partition[name] is not None:
                partition[name] = f"{partition[name][0]}-{partition[name][1]}"
    return value


def _show_status(session: Session, found: Status, roles: Roles) -> None:
    from ops.commands.times import show_age

    rows = []
    for server in found.servers:
        held = roles.embedded.get(server.role)
        where = f"127.0.0.1:{held.port}, process {held.pid}" if held else server.url
        memory = None if server.memory is None else f"{server.memory / 2**20:.1f} MiB"
        if server.memory is not None and server.memory_limit:
            memory = f"{memory} ({server.memory / server.memory_limit:.0%})"
        rows.append((server.role, where, server.version or "away", memory, show_age(server.uptime_s)))
    session.table(("server", "where", "version", "memory", "up for"), rows)
    for server in found.servers:
        if server.error:
            session.say(server.error)
    session.line("")
    if found.servers[0].error is None:
        _show_work(session, found)
    if found.models is not None:
        force = f"release {found.models.number} ({_short(found.models.release)})" if found.models.release else "none"
        session.text(f"models: {found.models.models}; release in force: {force}")
    _say_short_lived(session, roles)


def _show_work(session: Session, found: Status) -> None:
    from ops.commands.times import show_age

    if found.partitions is None:
        session.text(
            f"tenant {found.tenant}: does not exist yet. `red10 up` or the first tick (`red10 publish SPY 512.5`) "
            "makes it; `red10 tenant list` shows those that exist."
        )
        return
    session.text(f"tenant {found.tenant}: {len(found.partitions)} partitions")
    columns = ("part", "owner", "oldest entry", "consumed up to", "lag", "release", "dead")
    rows = [
        (p.partition, p.owner or "nobody", p.oldest, p.checkpoint, show_lag(p), _short(p.release), _known(p.dead))
        for p in found.partitions
    ]
    session.table(columns, rows, right=("part", "lag", "dead"))
    others = [(p.partition, name, _known(behind)) for p in found.partitions for name, behind in p.groups.items()]
    if others:
        session.line("")
        session.table(("part", "other group", "lag"), others, right=("part", "lag"))
    for name in sorted({name for p in found.partitions for name in p.missing}):
        where = ", ".join(str(p.partition) for p in found.partitions if name in p.missing)
        session.text(
            f"required group {name} was not made in partition {where}: no input is dropped there. Make it (XGROUP "
            "CREATE KEY GROUP ID; `red10 keys SYMBOL` prints keys), or take it out of required_groups."
        )
    for key in (key for p in found.partitions for key in p.broken):
        session.text(f"{key} holds something that is not Red10's: move it away (redis-cli RENAME '{key}' '{key}:old')")
    session.line("")
    if found.members:
        members = ", ".join(f"{m.name} (seen {show_age(max(0, m.age_ms) / 1000)} ago)" for m in found.members)
        session.text(f"workers: {members}")
    else:
        session.text("workers: none; `red10 up` or `red10 worker` starts one")
    if found.training is not None:
        waiting = _known(found.training.waiting)
        session.text(
            f"training: {found.training.requests} requests, {waiting} not taken up, {found.training.pending} being done"
            f"{_given_up(found.training.dead)}"
        )


def _known(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _given_up(dead: int) -> str:
    return f", {dead} given up (`red10 dead list`)" if dead else ""


def show_lag(partition: PartitionStatus) -> str:
    """The lag as people see it."""
    if partition.lag is not None:
        return str(partition.lag)
    return "unknown" if partition.lag_exceeds is None else f"> {partition.lag_exceeds}"


def _short(digest: str | None) -> str | None:
    return None if digest is None else digest[:12]


def _say_short_lived(session: Session, roles: Roles) -> None:
    """An embedded server that only this command uses ends with it; people should know before they try its port."""
    if any(server.started_by_us for server in roles.embedded.values()):
        session.say("The embedded Redis ran for this command only; `red10 up` keeps it running.")


def keys(
    session: Session,
    symbol: Annotated[str, typer.Argument(help="Symbol, such as SPY.", show_default=False)],
    *,
    json: JsonOption = False,
) -> None:
    """Show a symbol's keys, with redis-cli lines to paste."""
    from streams.clients import connect, translate
    from streams.keys import Keys
    from streams.series import check_symbol, partition_of
    from streams.tenant import find_tenant

    check_symbol(symbol)
    settings, _ = session.load()
    with session.roles(settings, "streams") as roles:
        with connect(roles.streams_url) as client, translate(roles.streams_url):
            tenant = find_tenant(client, settings.tenant)
        count = settings.partitions if tenant is None else tenant.partitions
        intervals = settings.intervals if tenant is None else tenant.pipeline.intervals
        part = Keys(settings.tenant).partition(partition_of(symbol, count))
        named = {"ticks": part.ticks}
        named |= {f"bars {interval}": part.bars(f"{symbol}:{interval}") for interval in intervals}
        named |= {name: getattr(part, name) for name in ("predictions", "signals", "dead", "state", "lease")}
        lines = redis_cli_lines(_cli(roles), symbol, part.ticks, part.signals)
        if json:
            session.json(
                {"symbol": symbol, "partition": part.partition, "partitions": count, "keys": named, "lines": lines}
            )
            return
        session.line(f"{symbol}: partition {part.partition} of {count}, tenant {settings.tenant}\n")
        session.table(("", "key"), named.items())
        session.line("")
        for what, line in lines.items():
            session.line(f"# {what}\n{line}")
        if tenant is None:
            session.say(f"Tenant {settings.tenant} does not exist yet: these keys hold if it gets {count} partitions.")
        _say_short_lived(session, roles)


def redis_cli_lines(cli: str, symbol: str, ticks: str, signals: str) -> dict[str, str]:
    """Lines for a shell, by what they do."""
    import shlex
    import time

    quoted = shlex.quote(symbol)
    return {
        "publish a tick": f"{cli} XADD '{ticks}' '*' symbol {quoted} price 512.5 size 100 ts {time.time_ns()}",
        "follow its partition's signals": f"{cli} XREAD BLOCK 0 STREAMS '{signals}' '$'",
        "look at its last signal": f"{cli} XREVRANGE '{signals}' + - COUNT 1",
    }


def _cli(roles: Roles) -> str:
    """How to call redis-cli for the streams; user and password are left to the caller."""
    import shlex
    from urllib.parse import unquote, urlsplit

    from streams.clients import safe_url

    held = roles.embedded.get("streams")
    if held is not None:
        return f"redis-cli -p {held.port}"
    url = urlsplit(roles.streams_url.get_secret_value())
    if url.scheme == "unix":
        return f"redis-cli -s {shlex.quote(unquote(url.path))}"
    return f"redis-cli -u {shlex.quote(safe_url(roles.streams_url))}"


def config(session: Session, *, json: JsonOption = False) -> None:
    """Show every setting, its value, and where that came from."""
    from streams.settings import Settings

    settings, origins = session.load()
    rows = [
        {
            "name": name,
            "value": _shown(getattr(settings, name)),
            "origin": origins[name],
            "about": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if json:
        session.json(rows)
        return
    session.table(("setting", "value", "from"), [(row["name"], _text(row["value"]), row["origin"]) for row in rows])
    session.say("\nSet them in red10.toml, as RED10_NAME, or by flags. What they mean: `red10 config --json`.")


def _shown(value: Any) -> Any:
    """A value for people and JSON; URLs without user and password."""
    from pathlib import Path

    from pydantic import SecretStr

    from streams.clients import safe_url

    if isinstance(value, SecretStr):
        return safe_url(value)
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str | None:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return None if value is None else str(value)


def tenant_list(session: Session, *, json: JsonOption = False) -> None:
    """List the tenants."""
    from ops.commands.times import show_ms
    from streams.clients import connect, translate
    from streams.keys import TENANTS
    from streams.tenant import find_tenant

    settings, _ = session.load()
    rows = []
    with (
        session.roles(settings, "streams") as roles,
        connect(roles.streams_url) as client,
        translate(roles.streams_url),
    ):
        for name, created in client.zrange(TENANTS, 0, -1, withscores=True):
            tenant = find_tenant(client, name.decode())
            rows.append(
                {
                    "tenant": name.decode(),
                    "created": int(created),
                    "partitions": tenant.partitions if tenant else None,
                    "intervals": tenant.pipeline.intervals if tenant else None,
                }
            )
    if json:
        session.json(rows)
    elif rows:
        shown = [(r["tenant"], show_ms(r["created"]), r["partitions"], _text(r["intervals"])) for r in rows]
        session.table(("tenant", "created (UTC)", "partitions", "bars"), shown, right=("partitions",))
    else:
        session.text(
            "No tenant yet. `red10 demo` makes one with data in it; the first `red10 publish` makes an empty one."
        )
