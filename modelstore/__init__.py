"""Models as build artifacts: versions, aliases, releases, the forest format and its kernel, reload."""
