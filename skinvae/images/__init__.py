"""bytes -> pixels: archives (members in order), decode (pixels or a reason), synthetic lesions. Opens no path."""
