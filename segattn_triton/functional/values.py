"""What an option may be, where several families have it."""

TIES = ("first", "split")
POOLS = ("avg", "max", "avgmax", "avg+max")
COMBINES = ("product", "sum")
SPATIAL_POOLS = ("max,mean", "mean,max")
