"""What is kept: one SQLite file, and the things in it that outlive the daemon."""
