"""HTML reports of training runs: a single file that needs no network connection."""
