"""Files as people and their tools write them, read in one way by every data set.

text        encodings, lines, JSON
paths       the photo or mask that a data file names
splits      which lines are for training, which for validation
names       class names and field names: reserved, empty or misspelt ones
outlines    COCO segmentations part by part, and what is wrong with each
inspection  what `t4s check` finds in one photo
"""
