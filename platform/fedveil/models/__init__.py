"""Recognition models: backbones (image to embedding) and heads (margin losses over local class centres)."""
