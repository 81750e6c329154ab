"""What the command line ends with; 0 where all went well."""

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143
