"""The books on disk: SQLite with a journal, a copy of what must never be lost, and migrations."""
