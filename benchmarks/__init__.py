"""Side-by-side measurements of raydask and its neighbours: ``python -m benchmarks``.

Vocabulary used in all modules of this package:

contender
    A system under measurement, behind one adapter (`benchmarks.contenders`).
case
    A small program with the numbers taken from it (`benchmarks.cases`).
host
    The child process which plays one contender's driver (`benchmarks.host`).
round
    One run of a case on one contender. Rounds of the contenders alternate.
metric
    A number which a round yields; reports give its median over the rounds.
answer
    What the case computed. All contenders must agree on it.
"""
