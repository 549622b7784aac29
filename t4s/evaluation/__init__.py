"""How good a checkpoint is: the field's measures, resumable runs, tables. `README.md` beside it shows how to use it.

arguments   the command line as `EvalConfig`, and what is refused before anything is loaded
run         one evaluation from the first photo to results.json
run_log     what a run has done so far, on disk, and whether that still holds
predictors  what answers: a checkpoint that segments, one that chats, the truth; the mean-mask baseline
scoring     one answer to one record of pixel counts
metrics     the measures, each with its formula and source
figures     records to percentages, per source and per class
report      tables, picture sheet, lines for the model card
validation  evaluation during training
bench/      one measurement a file: decoding, refiners, places, the no-target threshold
"""
