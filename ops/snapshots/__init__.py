"""Snapshots of a models Redis as build artifacts: taken, verified, archived, promoted, restored.

A snapshot is a directory `ENVIRONMENT/ID/` of two files, and of what was found out about them since:

    models.rdb       what the server wrote
    manifest.json    what it is (`ops.snapshots.manifest`); without one, a directory is no snapshot
    report.json      the last verification (`ops.snapshots.report`)
    promoted-….json  the last promotion into another environment (`ops.snapshots.promotions`)

In an archive the same names stand under `s3://BUCKET/PREFIX/`.
"""
