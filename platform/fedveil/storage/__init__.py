"""What lies on disk and how it is opened: whole writes, SQLite databases, and the addresses of what is kept."""
