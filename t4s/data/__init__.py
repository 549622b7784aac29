"""Data sets: whatever files they come from, they yield `records.Sample`.

spec       NAME[:PATH][@SPLIT][*WEIGHT]: open a data set by its name, and mix several
jsonl      your own photos, one JSON line a phrase
folder     photos with indexed masks and an `index.jsonl`
coco       your own photos with a COCO `instances.json`
hub        a data set of the Hugging Face Hub; RefCOCO-M
refcoco    RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO
semantic   ADE20K, Pascal Context, VOC, COCO-Stuff
vqa        questions with answers in free text, for evaluation only
reading/   files as people and tools write them: encodings, paths, splits, names, outlines
augment/   random changes to training pictures, and mosaics of several: numbers first, pixels last
scenes/    composed pictures and photos of several separate instances, with phrases that tell them apart
"""

from t4s.data.spec import Dataset, DatasetSpec, Mixture, open_dataset

__all__ = ["Dataset", "DatasetSpec", "Mixture", "open_dataset"]
