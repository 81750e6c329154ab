"""`make soak MINUTES=60`: kills, faults and fuzzing for as long as one likes, and a table of what they showed."""
