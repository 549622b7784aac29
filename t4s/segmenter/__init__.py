"""The front door: a photo and a phrase, a class list or a question in; a `Prediction` or an `Answer` out.

    segmenter    `Segmenter`: loads a checkpoint, encodes photos, answers, streams, refines again
    remote       a checkpoint that runs on a server: photo and question out, text back
    endpoint     the server itself: requests, retries, errors, what it can do
    queries      what may be asked: phrases and class lists, checked and cleaned
    results      from the text of a grid to masks, box and score
    status       found, absent, unsure or unknown word: decided here only
    labelling/   many photos: `t4s label`
    class_lists  lists longer than a checkpoint answers at once: asked in parts, merged by confidence
    chat         free answers of a model that chats, and the grids in them

Everything about one answer is checked before the photo and the question run through the model. `Segmenter` is imported
from `t4s`; nothing is imported here, so that `t4s label --help` does not wait for torch.
"""
