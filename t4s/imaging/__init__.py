"""Pixels in and out: image and mask files, masks, drawings, outlines and downloads. Knows no model.

loading   any photo that someone may supply, with its limits; mask files
masks     COCO annotations to masks and back
drawing   overlays, grids, contact sheets
polygons  outlines of masks
export    PNG, COCO JSON, GeoJSON, LabelMe, SVG, plain JSON
"""
