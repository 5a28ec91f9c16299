"""The portal: the facts, and the only verbs that may change them."""

VERSION = "0.3"  # as in CHANGELOG.md; backups and metrics carry it
