"""The pack's version, written into every file that it saves; pyproject.toml holds the same."""

VERSION = "0.1.0"
