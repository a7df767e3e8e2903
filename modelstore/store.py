"""The model store of a tenant, as users have it: all that can be done with models, and with releases as a whole.

Methods hand on to the module that owns the matter; what is written where, and what a crash leaves behind, is told
there: versions in `modelstore.versions`, releases in `modelstore.releases` and `modelstore.promotion`, tags in
`modelstore.tags`, search in `modelstore.search` and `modelstore.index`, removal in `modelstore.retention`, exports in
`modelstore.exports` and `modelstore.imports`.

Methods raise the driver's errors (`redis.RedisError`) as they are; `streams.clients` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import redis

from modelstore.errors import BadExport, NotFound
from modelstore.export_format import Contents
from modelstore.exports import Selection, select, select_release, write_export
from modelstore.imports import Check, Imported, import_versions
from modelstore.index import VersionIndex
from modelstore.locations import reading, writing
from modelstore.names import VersionRef, check_alias
from modelstore.promotion import promote_release, promote_version, roll_back
from modelstore.release import Aliases, ReleaseInfo
from modelstore.releases import Releases
from modelstore.retention import KEEP_RELEASES, KEEP_VERSIONS, Pruned, Retention
from modelstore.s3 import S3Options
from modelstore.search import Found, Query, search
from modelstore.tags import Tags
from modelstore.verdicts import Verdicts
from modelstore.version import NewVersion, VersionInfo
from modelstore.versions import VersionStore
from streams.keys import Keys

if TYPE_CHECKING:
    from modelstore.table_model import TableModel

Progress = Callable[[int, int], None]


class ModelStore(VersionStore):
    """The models of a tenant. Safe to use from several threads, as the client is.

    Attributes:
        releases: the releases, for what goes beyond `promote` and `rollback`.
        tags: the tags of versions.
        index: the kept index that `search` looks through.
    """

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self.releases = Releases(client, keys)
        self.tags = Tags(client, keys)
        self.index = VersionIndex(client, keys)

    def table_model(self, ref: VersionRef | str) -> TableModel:
        """A version of a table's model, loaded to predict rows: `store.table_model("iris/species").predict(rows)`.

        Raises:
            BadName: the text refers to no version.
            NotFound: there is no such version.
            BadModel: it is damaged, or is a series' model.
        """
        # Not at the head: with it come the kernels, which a publisher must not pay for.
        from modelstore.table_model import TableModel

        return TableModel.load(self, self.resolve(ref))

    def aliases(self) -> Aliases:
        """(model's name, alias) -> digest, of the release in force; empty without one."""
        current = self.releases.current()
        return self.releases.get(current.id).aliases if current is not None else {}

    def search(self, query: Query, show: Sequence[str] = ()) -> list[Found]:
        """The versions that fulfil a query.

        A store that is older than the index, or whose index is of another format, is indexed first, once.

        Args:
            show: metrics whose values are wanted besides those that the query names.

        Raises:
            BadQuery: the query cannot be read, or asks for metrics that no version has.
            BadName: a tag or alias cannot be one.
        """
        digests = None
        if query.alias is not None:
            check_alias(query.alias)
            digests = {to for (_, alias), to in self.aliases().items() if alias == query.alias}
        if self.index.missing():
            self.index.complete()
        return search(self.client, self.keys, query, show, digests)

    def set_alias(self, name: str, alias: str, ref: VersionRef | str | None, *, who: str, why: str = "") -> ReleaseInfo:
        """Point an alias of a model at one of its versions, in a new release; `None` takes the alias away.

        Raises:
            BadName: name, alias or reference cannot be one.
            NotFound: there is no such version.
            BadModel: the version is of another model.
            ReleaseConflict: others switched releases all the time.
        """
        digest = self.resolve(ref) if ref is not None else None
        reason = why or (f"{name}@{alias} taken away" if digest is None else f"{name}@{alias} set to {digest[:12]}")
        return self.releases.promote({(name, alias): digest}, who=who, why=reason)

    def promote(self, what: str, *, who: str, why: str = "", parent: str | None = None) -> ReleaseInfo:
        """Make a version champion of its model, or put a stored release in force, by compare-and-set.

        Args:
            what: a reference to a version, such as `SPY:1m/close_5@challenger`; or the number, or the beginning of the
                id, of a release, such as an imported one.
            parent: id of the release that must be in force; left out: the one that is when this begins.

        Raises:
            ReleaseConflict: another release was put in force meanwhile; the message says by whom, and what it changed.
            BadName: the text means neither.
            NotFound, BadModel: as of `Releases`.
        """
        current = self.releases.current()
        if parent is not None and (current is None or current.id != parent):
            # Not in force at all: the switch says so, with what happened since.
            current = ReleaseInfo(parent, 0, 0, None)
        if "/" not in what:
            return promote_release(self.releases, self.releases.find(what), parent=current, who=who, why=why)
        try:
            digest = self.resolve(what)
        except NotFound as error:
            self._tell_promoted(what, error)
            raise
        through = self.manifest(digest).trained_through
        name = self.info(digest).name
        return promote_version(self.releases, name, digest, at=through, parent=current, who=who, why=why)

    def _tell_promoted(self, what: str, error: NotFound) -> None:
        """Of an alias that is gone: whether that is because the promotion was done already."""
        name = str(VersionRef.parse(what).name)
        for noted in Verdicts(self.client, self.keys).of(name, 1):
            if noted.note.verdict == "promoted":
                error.add_note(
                    f"version {noted.note.version[:12]} became champion with release {noted.release[:12]} "
                    f"({noted.note.reason})"
                )

    def rollback(self, to: str | None = None, *, who: str, why: str = "") -> ReleaseInfo:
        """Put an earlier release in force, as a whole.

        Args:
            to: its number, or the beginning of its id; left out: the one before the present one.

        Raises:
            NotFound: there is none, or one of its versions is gone; or the present one is itself a rollback, so that it
                has to be said how far to go back.
            ReleaseConflict: somebody was faster; the message says who.
            BadModel: the release is damaged.
        """
        return roll_back(self.releases, self.releases.find(to) if to is not None else None, who=who, why=why)

    def remove(self, refs: Sequence[VersionRef | str], *, keep_releases: int = KEEP_RELEASES) -> list[VersionInfo]:
        """Remove versions; none at all if one of them is needed by an alias of a kept release.

        A number that was given and is there no more is passed over, so that a removal that was stopped can be repeated.

        Returns:
            Those that were removed.

        Raises:
            NotFound: there is no such version.
            InUse: an alias of one of the last `keep_releases` releases, or a running import, needs one.
        """
        infos = [info for info in map(self._unless_removed, refs) if info is not None]
        retention = Retention(self.client, self.keys, self.releases, keep_releases)
        retention.remove({info.digest: info.name for info in infos})
        return infos

    def _unless_removed(self, ref: VersionRef | str) -> VersionInfo | None:
        wanted = VersionRef.parse(ref) if isinstance(ref, str) else ref
        try:
            return self.info(self.resolve(wanted))
        except NotFound:
            last = self.client.hget(self.keys.model(str(wanted.name)), "last") if wanted.number is not None else None
            if wanted.number is None or int(cast(bytes, last or b"0")) < wanted.number:
                raise
            return None

    def prune(
        self,
        keep: int = KEEP_VERSIONS,
        *,
        keep_releases: int = KEEP_RELEASES,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Pruned:
        """Remove all versions but the last `keep` of each model and what kept releases and running imports need.

        Raises:
            BadModel: a kept release is damaged.
            ReleaseConflict: others switched releases all the time.
        """
        retention = Retention(self.client, self.keys, self.releases, keep_releases)
        return retention.prune(keep, dry_run=dry_run, progress=progress)

    def select(self, what: str, *, every: bool = False) -> Selection:
        """What `export` takes: the version, model or series that a text means; see `modelstore.exports.select`."""
        return select(self, self.releases, what, every=every)

    def select_release(self, text: str = "") -> Selection:
        """What `export` takes: a release by number or beginning of its id; left out, the one in force."""
        return select_release(self.releases, text)

    def export(
        self,
        selection: Selection | str,
        target: str | Path,
        *,
        replace: bool = False,
        s3: S3Options | None = None,
        progress: Progress | None = None,
    ) -> Contents:
        """Write versions to one file or object, checked against their digests.

        Args:
            selection: what `select` or `select_release` gives, or a text for `select`.
            target: a file's name, or `s3://BUCKET/KEY`.
            replace: replace what stands there.

        Raises:
            StorageError: something stands there, or it cannot be written.
            BadModel: a version is damaged.
            BadName, NotFound: as of `select`.
        """
        chosen = self.select(selection) if isinstance(selection, str) else selection
        with writing(target, replace=replace, s3=s3) as file:
            return write_export(self.client, self.keys, chosen, file, progress)

    def import_from(
        self,
        source: str | Path,
        *,
        promote: bool = False,
        who: str = "",
        why: str = "",
        s3: S3Options | None = None,
        check: Check | None = None,
        progress: Progress | None = None,
    ) -> Imported:
        """Store what an export holds and the store lacks; nothing is overwritten. See `modelstore.imports`.

        Args:
            source: a file's name, or `s3://BUCKET/KEY`.
            promote: put the release that it holds in force.
            check: looks at all versions, some at a time, before anything is stored.

        Raises:
            StorageError: it cannot be read.
            BadExport: it is no whole, sound export; nothing is stored.
            ReleaseConflict: another release was put in force meanwhile; everything else is done.
        """
        with reading(source, s3=s3) as file:
            try:
                return import_versions(
                    self, self.releases, file, promote=promote, who=who, why=why, check=check, progress=progress
                )
            except BadExport as error:
                raise BadExport(f"{source}: {error}; nothing was imported") from error


__all__ = ["Found", "Imported", "ModelStore", "NewVersion", "Query", "VersionInfo"]
