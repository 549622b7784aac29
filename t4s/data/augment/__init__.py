"""Random changes to training pictures, with masks and phrases kept true.

Everything random is drawn first, as plain numbers; pixels come last, from the numbers alone. So whoever renders, with
Pillow from a file (`render`) or in a batch on a GPU (`training.resident`), shows the same.

views    what a picture shows, as numbers: which parts of which photos, mirrored, in which light
labels   what is where in a photo, reduced and packed
draws    what is drawn of a sample: a view and the questions about it; from a data set's photo to a `Draw`
changes  crop, flip, colour and blur
mosaics  several photos joined into one picture
render   a view as a picture
"""
