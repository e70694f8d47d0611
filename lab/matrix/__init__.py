"""The crash matrix: a fleet in flight in all phases, and a daemon that dies at random instants over a disk that fails.

`python -m lab.matrix` runs it. Rules:

- The machines live outside the daemon, as real ones do: what they are asked to do is counted there, and goes on while the
  daemon is dead.
- A deployment, cleaning, inspection, rescue or power change that was accepted must come to its end, or fail for a reason that
  the matrix gave it; each machine must have seen what it sees without a crash, once.
- Chance follows from the seed. What a run shows depends on the computer's speed as well: the same seed is the same kind of
  run, not the same run.
"""
