"""A mask whose pixels become the sum of their neighbours, weighted by how alike the pixels of an image are."""
