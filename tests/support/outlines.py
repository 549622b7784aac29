"""Outlines read back: a fill by the pixels' centres, the shoelace formula, a strict GeoJSON parser."""

from __future__ import annotations

import json

import numpy as np


def filled(rings: list[list[tuple[float, float]]], shape: tuple[int, int]) -> np.ndarray:
    """Even-odd fill at the pixels' centres, by counting the sides to the left of each."""
    mask = np.zeros(shape, int)
    ys, xs = np.mgrid[: shape[0], : shape[1]] + 0.5
    for ring in rings:
        for (ax, ay), (bx, by) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if ay != by:
                crosses = (np.minimum(ay, by) < ys) & (ys < np.maximum(ay, by))
                mask += crosses & (ax + (ys - ay) * (bx - ax) / (by - ay) < xs)
    return mask % 2 == 1


def area(ring: list[tuple[float, float]]) -> float:
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(ring, [*ring[1:], ring[0]], strict=True)) / 2


def strict_geojson(text: str) -> dict[str, list[list[list[tuple[float, float]]]]]:
    """RFC 7946, sections 3.1.6 and 3.3: {label: polygons}."""
    data = json.loads(text)
    assert set(data) == {"type", "features"} and data["type"] == "FeatureCollection"
    found = {}
    for feature in data["features"]:
        assert set(feature) == {"type", "properties", "geometry"} and feature["type"] == "Feature"
        geometry = feature["geometry"]
        assert geometry["type"] in ("Polygon", "MultiPolygon")
        several = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for polygon in several:
            for i, ring in enumerate(polygon):
                assert len(ring) >= 4 and ring[0] == ring[-1]
                assert all(len(p) == 2 and all(isinstance(v, (int, float)) for v in p) for p in ring)
                assert area(ring[:-1]) > 0 if i == 0 else area(ring[:-1]) < 0  # the right-hand rule
        found[feature["properties"]["label"]] = [[[tuple(p) for p in ring[:-1]] for ring in part] for part in several]
    return found
