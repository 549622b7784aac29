"""Pixels in and out: image and mask files, masks, drawings, outlines and downloads. Knows no model.

loading   any photo that someone may supply, with its limits; mask files
masks     COCO annotations to masks and back; what a mask file means
drawing   overlays, grids, contact sheets
polygons  exact outlines of masks
simplify  outlines with few points, for downloads
export    PNG, COCO JSON, GeoJSON, LabelMe, SVG, plain JSON
"""
