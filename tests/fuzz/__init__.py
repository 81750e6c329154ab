"""A fuzzer for everything that is read from elsewhere: experiments, checkpoints, datasets, histories, MDPs, options.

`PYTHONPATH=tests python -m fuzz --help` says how to run it.
"""
