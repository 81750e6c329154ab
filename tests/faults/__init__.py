"""What a run must survive: the faults, ways to cause them, and the page that says what a user sees."""
