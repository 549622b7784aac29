"""Pictures whose separate instances are known, and the phrases that tell those instances apart.

synthetic  composed scenes of coloured shapes
composed   copy-paste scenes: instances cut out of photos and pasted on other photos
places     photos that show several separate instances of a class
regions    connected regions of a mask, and whether they are separate instances
cutouts    instances cut out of pictures, and pasting them
staging    from a scene to its samples
phrasing   phrases by class, colour, size and position
"""
