"""Bulk labelling: many photos, a few questions, shards of answers that survive any interruption.

    arguments  the command line of `t4s label` as a typed `LabelConfig`, and what is refused before it starts
    sources    the photos: a folder, files, JSON lines, Parquet, a data set of the Hub
    shards     the rows of the answers, and their Parquet files: written whole or not at all
    answering  one photo, its questions, its rows
    workers    who answers: this process, a server, or actors on a Ray cluster
    run        what is still to be done, in order, with progress
    merge      the shards as COCO JSON, indexed PNGs and JSON lines, which `t4s check` and training read

A shard holds the answers about a fixed range of photos. It is a pure function of the photos, the questions and the
checkpoint, so whoever writes it, and however often the run is killed, the bytes are the same.
"""
