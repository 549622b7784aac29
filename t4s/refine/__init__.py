"""From a coarse grid and its photo to masks at the photo's size.

refiner      the table of refiners, `refine` and `check_refiner`; soft grids; faults where masks disagree with the grid
interpolate  `none` (nearest cell) and `smooth` (bicubic): numpy, the photo is not used
guided       `guided`: the guided filter
crf          `crf`: a dense CRF, with the optional package pydensecrf2
edge         `edge`: the small learned network, the default
edge_net     that network: its layers, loading and saving
sam          `sam`: SAM, SAM-HQ or SAM 2 through transformers, prompted with the grid
sam_model    where a SAM comes from: cache, Hub or folder, checked before it is downloaded and built
"""
