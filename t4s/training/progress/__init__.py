"""What a run has beside its steps.

clock    a schedule by the clock instead of the number of steps
average  the running average of the weights, which is what is saved
speed    photos and phrases a second
preview  --dry-run: settings, one sample, how long it takes
"""
