"""Files: written completely or not at all, and read within bounds where a user brought them."""

from .files import CONFIGS, append, sha256_of, write_atomically, write_text, write_yaml
from .kinds import LAZY_YAML, expect, kind_of, told
from .locks import LOCK, has_locks, holder_of, is_locked, locked
from .places import check_output
from .untrusted import (
    parse_yaml,
    read_bytes,
    read_head,
    read_json,
    read_text,
    read_yaml,
    read_yaml_and_text,
)

__all__ = [
    "CONFIGS",
    "LAZY_YAML",
    "LOCK",
    "append",
    "check_output",
    "expect",
    "has_locks",
    "holder_of",
    "is_locked",
    "kind_of",
    "locked",
    "parse_yaml",
    "read_bytes",
    "read_head",
    "read_json",
    "read_text",
    "read_yaml",
    "read_yaml_and_text",
    "sha256_of",
    "told",
    "write_atomically",
    "write_text",
    "write_yaml",
]
