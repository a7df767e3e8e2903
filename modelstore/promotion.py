"""Putting a version or a release in force by hand, by compare-and-set, and telling who was faster.

A promotion is thought out for the release in force at its beginning, the parent. If that is not in force any more when
it is carried out, nothing is changed, and the error says who put what in force meanwhile. Doing a promotion again that
landed, though its reply was lost, changes nothing.
"""

from __future__ import annotations

from modelstore.errors import BadModel, NotFound, ReleaseConflict
from modelstore.names import CHALLENGER, CHAMPION, PROVEN
from modelstore.release import Aliases, AliasKey, Delta, ReleaseInfo, difference
from modelstore.releases import Releases
from modelstore.verdicts import Note

#: Changes of aliases that a conflict tells one by one.
MOST_TOLD = 5
#: Switches that are looked through for what happened meanwhile.
MOST_SWITCHES = 1000


def champion_change(name: str, digest: str, aliases: Aliases) -> dict[AliasKey, str | None]:
    """What makes a version champion: it takes the place, is no challenger any more, and is on probation."""
    delta: dict[AliasKey, str | None] = {(name, CHAMPION): digest}
    if aliases.get((name, CHALLENGER)) == digest:
        delta[name, CHALLENGER] = None
    if aliases.get((name, PROVEN)) not in (None, digest):
        delta[name, PROVEN] = None
    return delta


def promote_version(
    releases: Releases, name: str, digest: str, *, at: int, parent: ReleaseInfo | None, who: str, why: str
) -> ReleaseInfo:
    """Make a version champion of its model, and write down the verdict.

    Args:
        at: event time of the verdict: through when the version was trained.
        parent: what was in force when it was decided.

    Raises:
        ReleaseConflict: something else is in force.
        NotFound, BadModel: as in `Releases.switch`.
    """
    aliases: Aliases = releases.get(parent.id).aliases if parent is not None else {}
    over = aliases.get((name, CHAMPION))
    note = Note(
        name, at, "promoted", digest, over if over != digest else None, f"by {who}: {why}" if why else f"by {who}"
    )
    try:
        return releases.switch(
            champion_change(name, digest, aliases),
            parent=parent.id if parent is not None else None,
            who=who,
            why=why or f"{name} promoted",
            notes=[note],
        )
    except ReleaseConflict as conflict:
        raise told(releases, conflict) from conflict


def promote_release(
    releases: Releases, release: str, *, parent: ReleaseInfo | None, who: str, why: str, snapshot: str = ""
) -> ReleaseInfo:
    """Put a stored release in force as a whole.

    Args:
        snapshot: the one that it came with, for the history.

    Raises:
        ReleaseConflict: something else than `parent` is in force.
        NotFound: the store does not hold the release, or one of its versions.
        BadModel: it is damaged.
    """
    try:
        expected = parent.id if parent is not None else None
        return releases.put_in_force(release, parent=expected, who=who, why=why, snapshot=snapshot)
    except ReleaseConflict as conflict:
        raise told(releases, conflict) from conflict


def roll_back(releases: Releases, to: str | None, *, who: str, why: str) -> ReleaseInfo:
    """Put an earlier release in force; without a name the one before the present one.

    Raises:
        NotFound: as of `rollback_target`; or there is no such release, or one of its versions is gone.
        ReleaseConflict: somebody was faster.
        BadModel: the release is damaged.
    """
    if to is not None:
        return releases.rollback(to, who=who, why=why)
    current = releases.current()
    return promote_release(releases, rollback_target(releases), parent=current, who=who, why=why)


def rollback_target(releases: Releases) -> str:
    """The id of the release before the present one.

    Raises:
        NotFound: there is none; or the present one was itself put in force by going back, so that "the one before"
            would lead forward again.
    """
    current = releases.current()
    if current is None or current.parent is None:
        raise NotFound("there is no earlier release to go back to")
    history = releases.history(2)
    back = len(history) > 1 and history[1].id == current.parent and history[1].parent == current.id
    # A promotion may lead to where a release was before, and is none back.
    if back and history[0].snapshot is None:
        raise NotFound(
            f"release {current.number} is itself a rollback (by {history[0].who}) from {history[1].number}: name the "
            "release to go to (`red10 release list`)"
        )
    return current.parent


def told(releases: Releases, conflict: ReleaseConflict) -> ReleaseConflict:
    """The same conflict, with who put what in force meanwhile, as far as that can be found out."""
    current = releases.current()
    if current is None:
        return conflict
    meanwhile = []
    for switch in releases.history(MOST_SWITCHES):
        if switch.id == conflict.expected:
            break
        meanwhile.append(f"{switch.number} by {switch.who}" + (f" ({switch.why})" if switch.why else ""))
    text = f"meanwhile release {', '.join(reversed(meanwhile[:MOST_TOLD])) or current.number} was put in force"
    try:
        before: Aliases = releases.get(conflict.expected).aliases if conflict.expected else {}
        changes = describe(before, difference(before, releases.get(current.id).aliases))
    except (BadModel, NotFound):
        changes = []
    if changes:
        more = f" and {len(changes) - MOST_TOLD} more" if len(changes) > MOST_TOLD else ""
        text += f", which changed {', '.join(changes[:MOST_TOLD])}{more}"
    return ReleaseConflict(conflict.expected, current.id, text)


def describe(before: Aliases, delta: Delta) -> list[str]:
    """Changes of aliases for people: `NAME@ALIAS from OLD to NEW`."""
    return [
        f"{name}@{alias} from {(before.get((name, alias)) or 'none')[:12]} to {(digest or 'none')[:12]}"
        for (name, alias), digest in sorted(delta.items())
    ]
