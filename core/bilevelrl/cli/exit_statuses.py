"""The exit statuses of the command line; 0 means success."""

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143
