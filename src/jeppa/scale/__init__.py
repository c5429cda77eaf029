"""Work on more than one process or machine: a data set as latents, and many pictures, in blocks.

`engine` runs the blocks of a job, here or on Ray; `encode` and `sample` are the jobs; `latents` is the format of what
`encode` writes, and what trains on it. Needs the extra `jeppa[scale]` where a module says so.
"""
